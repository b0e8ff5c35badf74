"""Tests large photos: the cost of a 12-megapixel JPEG compared with Pillow, whether scaled decoding changes
answers, and whether the largest photos of each format fit into an instance of 64 MiB.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/setup.py python model
    bench/.env/python/bin/python bench/large.py [--rounds 15] [--out FILE]
    bench/.env/python/bin/python bench/large.py --beside OTHER.wasm

`--beside` compares decoding with the default filter with another build of the component, alternating in one
run, and the resampling filters with each other. It needs only the repository's own models, so no set-up.

The photos are those of tests/photos, enlarged and with sensor noise, so that they compress like a camera's.
The time is the service's own figure for decoding (including Lanczos to 300x300 and the tensor), alternating
with Pillow's full decode and Lanczos. Exits with 1 if a promise is broken. Takes three minutes.
"""

import argparse
import io
import json
import pathlib
import re
import shutil
import tempfile
import time

import numpy as np
from PIL import Image

from load import Photographer, quantile
from peers import APP, COMPONENT, skincell_flags
from service import ROOT, Service, machine

SIDE, SHARE, POINTS, KEPT = 300, 0.45, 1.0, 0.97
# Random weights amplify rounding, so the effect of scaled decoding is measured with trained models.
TRAINED, TRAINED_SIDE = ("skin", "imagenet"), 224
Image.MAX_IMAGE_PIXELS = None
PHOTOS = ROOT / "tests" / "photos"


def enlarged(path, width, height, noise=4.0):
    """The photo at this size, with sensor noise."""
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
    """Milliseconds of the full decode and Lanczos, and the resulting photo."""
    begin = time.perf_counter()
    small = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((side, side), Image.LANCZOS)
    return (time.perf_counter() - begin) * 1e3, small


def rounded_once(photo, side):
    """Pillow's Lanczos, but in float32 until the end; Pillow itself rounds to 8 bits after each direction."""
    bands = [np.asarray(band.convert("F").resize((side, side), Image.LANCZOS)) for band in photo.split()]
    return Image.fromarray(np.clip(np.rint(np.stack(bands, -1)), 0, 255).astype(np.uint8))


def price(service, rounds):
    """Milliseconds of decoding, ours and Pillow's, alternating."""
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
    """Compares scaled decoding with Pillow for each test photo at 12 megapixels and each trained model: whether
    the top class is the same, and the largest difference of a probability in points. The floor is the
    difference between Pillow and a Lanczos that rounds once instead of twice, both after full decoding."""
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


def largest_of_each_format():
    """Names and bytes of photos as large as the largest that phones and programs write."""
    noisy = lambda width, height: enlarged(PHOTOS / "skin.jpg", width, height)
    yield "48-megapixel JPEG", encoded(noisy(8000, 6000), "JPEG", quality=80)
    yield "50-megapixel JPEG, 8160x6144", encoded(noisy(8160, 6144), "JPEG", quality=80)
    smooth = enlarged(PHOTOS / "drawn-acne-1.jpg", 6000, 4000, noise=0)
    yield "24-megapixel PNG", encoded(smooth, "PNG", compress_level=6)
    twelve = noisy(4000, 3000)
    for name, subsampling in (("4:2:0", 2), ("4:4:4", 0)):
        photo = encoded(twelve, "JPEG", quality=85, progressive=True, subsampling=subsampling)
        yield f"12-megapixel progressive JPEG, {name}", photo
    yield "12-megapixel WebP", encoded(twelve, "WEBP", quality=80)
    yield "12-megapixel GIF", encoded(twelve.quantize(256, dither=Image.Dither.NONE), "GIF")


def largest():
    """Answers to these photos by an instance of 64 MiB: name, bytes, ms of decoding, ms in total, and the rise
    of the process's peak in MiB, each in a separate service."""
    flags = ["--quiet", "--max-instance-memory", "64MiB", "--max-body", "32MiB", "--env", "SKINCELL_MAX_BODY=32MiB"]
    for name, photo in largest_of_each_format():
        with Service(*flags) as service:
            Photographer(service, [(PHOTOS / "skin.jpg").read_bytes()]).post()
            before = service.memory()["peak"]
            milliseconds, body = Photographer(service, [photo]).post()
            rise = (service.memory()["peak"] - before) / (1 << 20)
        yield name, len(photo), json.loads(body)["timing_ms"]["decode"], milliseconds, rise


def application(folder, component, filters=()):
    """The repository's application with this component, and a copy of its model `skin` for each of `filters`."""
    manifest = (ROOT / "spin.toml").read_text()
    manifest = re.sub("(?m)^source = .*$", f"source = {json.dumps(str(component))}", manifest)
    names = ["skin"] + [f"skin-{filter}" for filter in filters]
    manifest = re.sub("(?m)^ai_models = .*$", f"ai_models = {json.dumps(names)}", manifest)
    manifest = re.sub("(?m)^files = .*$", 'files = ["models/*/card.json"]', manifest)
    (folder / "spin.toml").write_text(manifest)
    for name, filter in zip(names, ("lanczos", *filters)):
        shutil.copytree(ROOT / "models" / "skin", folder / "models" / name)
        card = json.loads((folder / "models" / name / "card.json").read_text())
        if filter != "lanczos":
            card["input"]["resize"] = {"filter": filter, "antialias": True, "fit": "stretch"}
        (folder / "models" / name / "card.json").write_text(json.dumps(card | {"name": name}))
    return folder


def beside(component, rounds):
    """Milliseconds to decode a 12-megapixel photo by another component and by this one with each filter."""
    filters = ("bicubic", "bilinear")
    photo = encoded(enlarged(PHOTOS / "skin.jpg", 4000, 3000), "JPEG", quality=85)
    taken = {}
    with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
        old, new = application(pathlib.Path(old), component), application(pathlib.Path(new), COMPONENT, filters)
        with Service("--quiet", app=old) as other, Service("--quiet", app=new) as ours:
            clients = {"other": Photographer(other, [photo], "?gradcam=false&model=skin")}
            for name in ("lanczos", *filters):
                model = "skin" if name == "lanczos" else f"skin-{name}"
                clients[name] = Photographer(ours, [photo], f"?gradcam=false&model={model}")
            for client in clients.values():
                client.post()
            for _ in range(rounds):
                for name, client in clients.items():
                    taken.setdefault(name, []).append(json.loads(client.post()[1])["timing_ms"]["decode"])
    return {name: quantile(each, 0.5) for name, each in taken.items()}


def compare(component, rounds):
    """Prints what `beside` measures. The promised speed relative to the other component is at least 0.97."""
    where, taken = machine(), beside(component, rounds)
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}: 12-megapixel JPEG, medians of {rounds} in turns")
    for name, milliseconds in taken.items():
        print(f"{name:9} {milliseconds:6.1f} ms, speed {taken['other'] / milliseconds:.2f} of the other component's")
    return taken["other"] / taken["lanczos"] < KEPT


def show(rows):
    """Prints the rows of `largest`."""
    for name, length, decode, milliseconds, rise in rows:
        print(f"{name} of {length / 1e6:.1f} MB in 64 MiB: answered in {milliseconds:.0f} ms, decode {decode:.0f}, "
              f"peak {rise:+.0f} MiB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--beside", type=pathlib.Path, metavar="COMPONENT")
    parser.add_argument("--fits", action="store_true", help="only the photos in 64 MiB")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "large.json")
    asked = parser.parse_args()
    if asked.beside:
        return compare(asked.beside.resolve(), asked.rounds)
    if asked.fits:
        return show(largest())
    where = machine()
    with Service(*skincell_flags("cellnet", 1), app=APP) as service:
        size, ours, theirs = price(service, asked.rounds)
    with Service("--quiet") as service:
        rows = agreement(service)
    fits = list(largest())
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}")
    ratio, worst, same = ours / theirs, max(row[2] for row in rows), all(row[1] for row in rows)
    print(f"12-megapixel JPEG of {size / 1e6:.1f} MB: {ours:.0f} ms in Wasm, Pillow's full decode {theirs:.0f} ms")
    for name, is_same, points, floor in rows:
        print(f"  {name:38} {'same class' if is_same else 'ANOTHER CLASS'}, {points:.2f} points, rounding {floor:.2f}")
    for what, column in [("scaled decoding and Pillow's full one", 2), ("Pillow's Lanczos rounded once and twice", 3)]:
        apart = [row[column] for row in rows]
        within = sum(points <= POINTS for points in apart)
        print(f"{what}: {within} of {len(rows)} within {POINTS:g} point, worst {max(apart):.1f}")
    show(fits)
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
