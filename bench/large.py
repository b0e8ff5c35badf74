"""Large photos: what a 12-megapixel JPEG costs beside Pillow, whether scaled decoding changes answers, and
whether photos of 24 and 48 megapixels fit into an instance of 64 MiB.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/setup.py python model
    bench/.env/python/bin/python bench/large.py [--rounds 15] [--out FILE]

The photos are those of tests/photos, enlarged; a sensor's noise is drawn over them, so that they compress as a
camera's do. Time is what the service itself tells of decoding (which includes Lanczos to 300x300 and the tensor), in
turns with Pillow's full decode and Lanczos. Exits with 1 where a promise is broken. Three minutes.
"""

import argparse
import io
import json
import pathlib
import time

import numpy as np
from PIL import Image

from load import Photographer, quantile
from peers import APP, skincell_flags
from service import ROOT, Service, machine

SIDE, SHARE, POINTS = 300, 0.45, 1.0
# Random weights make chaos of a rounding: what scaled decoding does to answers is asked of trained models.
TRAINED, TRAINED_SIDE = ("skin", "imagenet"), 224
Image.MAX_IMAGE_PIXELS = None
PHOTOS = ROOT / "tests" / "photos"


def enlarged(path, width, height, noise=4.0):
    """The photo at this size, with a sensor's noise."""
    photo = Image.open(path).convert("RGB").resize((width, height), Image.BICUBIC)
    random = np.random.default_rng(1)
    pixels = np.asarray(photo, np.int16)
    if noise:
        grain = random.normal(0, noise, pixels.shape[:2]).round().astype(np.int16)
        pixels = np.clip(pixels + grain[..., None], 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(photo, kind, **options):
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


def by_pillow(jpeg, side=SIDE):
    """How many milliseconds the full decode and Lanczos took, and the photo they gave."""
    begin = time.perf_counter()
    small = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((side, side), Image.LANCZOS)
    return (time.perf_counter() - begin) * 1e3, small


def rounded_once(photo, side):
    """Lanczos as Pillow's, but in float32 until the end: Pillow's own rounds to 8 bits after each direction."""
    bands = [np.asarray(band.convert("F").resize((side, side), Image.LANCZOS)) for band in photo.split()]
    return Image.fromarray(np.clip(np.rint(np.stack(bands, -1)), 0, 255).astype(np.uint8))


def price(service, rounds):
    """Milliseconds of decoding, ours and Pillow's, in turns."""
    jpeg = encoded(enlarged(PHOTOS / "skin.jpg", 4000, 3000), "JPEG", quality=85)
    client = Photographer(service, [jpeg], "?gradcam=false")
    client.post()
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(json.loads(client.post()[1])["timing_ms"]["decode"])
        theirs.append(by_pillow(jpeg)[0])
    return len(jpeg), quantile(ours, 0.5), quantile(theirs, 0.5)


def shares(service, photo, model):
    query = f"?gradcam=false&top_k=1000&model={model}"
    answer = json.loads(Photographer(service, [photo], query).post()[1])
    return {result["index"]: result["probability"] for result in answer["results"]}


def agreement(service):
    """For each test photo at 12 megapixels and each of the repository's trained models: whether the top class is
    the same, and the largest difference of a probability in points, between scaled decoding and Pillow's; and as a
    floor the same difference where Pillow decodes as fully, and its Lanczos rounds once instead of twice."""
    rows = []
    for path in sorted(PHOTOS.iterdir()):
        if path.suffix not in (".jpg", ".png", ".webp"):
            continue
        jpeg = encoded(enlarged(path, 4000, 3000), "JPEG", quality=90)
        small = encoded(by_pillow(jpeg, TRAINED_SIDE)[1], "PNG")
        finer = encoded(rounded_once(Image.open(io.BytesIO(jpeg)).convert("RGB"), TRAINED_SIDE), "PNG")
        for model in TRAINED:
            scaled, full, once = (shares(service, photo, model) for photo in (jpeg, small, finer))
            points, floor = (max(abs(other[index] - full[index]) for index in full) for other in (scaled, once))
            same = max(scaled, key=scaled.get) == max(full, key=full.get)
            rows.append((f"{path.name}, {model}", same, points, floor))
    return rows


def largest():
    """Answers to photos of 48 and 24 megapixels by an instance of 64 MiB: name, bytes, what came, ms."""
    jpeg = encoded(enlarged(PHOTOS / "skin.jpg", 8000, 6000), "JPEG", quality=80)
    png = encoded(enlarged(PHOTOS / "drawn-acne-1.jpg", 6000, 4000, noise=0), "PNG", compress_level=6)
    flags = ["--max-instance-memory", "64MiB", "--max-body", "32MiB", "--env", "SKINCELL_MAX_BODY=32MiB"]
    rows = []
    with Service(*skincell_flags("cellnet", 1), *flags, app=APP) as service:
        for name, photo in [("48-megapixel JPEG", jpeg), ("24-megapixel PNG", png)]:
            milliseconds, body = Photographer(service, [photo]).post()
            rows.append((name, len(photo), json.loads(body)["timing_ms"]["decode"], milliseconds))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "large.json")
    asked = parser.parse_args()
    where = machine()
    with Service(*skincell_flags("cellnet", 1), app=APP) as service:
        size, ours, theirs = price(service, asked.rounds)
    with Service("--quiet") as service:
        rows = agreement(service)
    fits = largest()
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}")
    ratio, worst, same = ours / theirs, max(row[2] for row in rows), all(row[1] for row in rows)
    print(f"12-megapixel JPEG of {size / 1e6:.1f} MB: {ours:.0f} ms in Wasm, Pillow's full decode {theirs:.0f} ms")
    for name, is_same, points, floor in rows:
        print(f"  {name:38} {'same class' if is_same else 'ANOTHER CLASS'}, {points:.2f} points, rounding {floor:.2f}")
    for what, column in [("scaled decoding and Pillow's full one", 2), ("Pillow's Lanczos rounded once and twice", 3)]:
        apart = [row[column] for row in rows]
        within = sum(points <= POINTS for points in apart)
        print(f"{what}: {within} of {len(rows)} within {POINTS:g} point, worst {max(apart):.1f}")
    for name, length, decode, milliseconds in fits:
        print(f"{name} of {length / 1e6:.1f} MB in 64 MiB: answered in {milliseconds:.0f} ms, decode {decode:.0f}")
    checks = [("decode / Pillow", ratio, SHARE), ("points between scaled and full", worst, POINTS),
              ("photos with another top class", sum(not row[1] for row in rows), 0)]  # fmt: skip
    broken = 0
    for name, value, limit in checks:
        broken += value > limit
        print(f"{name:34} {value:.3f} <= {limit:g}  {'holds' if value <= limit else 'DOES NOT HOLD'}")
    result = {"machine": where, "jpeg_bytes": size, "decode_ms": ours, "pillow_ms": theirs,
              "agreement": rows, "same_top": same, "largest": fits}  # fmt: skip
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())
