"""Tests whether the answer depends on the colour space a photo is saved in: compares each test photo in
Display P3 and in Adobe RGB with the same pixels in sRGB.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 -m venv .venv && .venv/bin/pip install pillow numpy onnxruntime
    .venv/bin/python bench/profiles.py [--models skin,imagenet]

ImageCms converts, relative colorimetric, to 8 bits, which rounds every pixel once more. The files are PNG,
JPEG of quality 98 without chroma subsampling, and lossless WebP. Display P3 has the curve that phones write
(parametric, of sRGB), Adobe RGB a pure power of 563/256. The effect of that rounding is measured too: by the
same two files through Pillow, ImageCms and ONNX Runtime, and by half a level of noise on the sRGB photo. Exits
with 1 if the top class changes or a probability differs by more than 2 points from the sRGB photo's, and
rounding does not explain it.
"""

import argparse
import importlib.util
import io
import struct

import numpy as np
from PIL import Image, ImageCms

from photos import Reference, opened, post
from service import ROOT, Service, machine

POINTS = 2.0
FILES = {"PNG": {}, "JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}


def recipe():
    """The module that makes vision's fixtures; it writes the profiles."""
    path = ROOT / "vision" / "tests" / "fixtures" / "icc.py"
    spec = importlib.util.spec_from_file_location("icc", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def profiles():
    icc = recipe()
    fixed = lambda values: b"".join(struct.pack(">i", round(value * 65536)) for value in values)
    curve = b"para\0\0\0\0\0\3\0\0" + fixed([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
    adobe = [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)]
    return {"Display P3": icc.matrix_profile(None, icc.P3_POINTS, curve), "Adobe RGB": icc.matrix_profile(563 / 256, adobe)}


def encoded(photo, kind, **options):
    file = io.BytesIO()
    photo.save(file, kind, **FILES[kind], **options)
    return file.getvalue()


def converted(photo, source, target):
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.profileToProfile(photo, source, target, renderingIntent=intent, outputMode="RGB")


def answer(service, photo, model):
    """Per cent by class in the service's answer."""
    status, body, _ = post(service, photo, model)
    if status != 200:
        raise SystemExit(f"{status}: {body.get('detail')}")
    shares = np.zeros(len(body["results"]))
    for result in body["results"]:
        shares[result["index"]] = result["probability"]
    return shares


def rounding(reference, plain, coded):
    """The same files through Pillow, ImageCms and ONNX Runtime: the difference in points, whether the top class
    is the same, and the change by noise of half a level."""
    (first, noise), (second, _) = (reference.judge(opened(io.BytesIO(file))) for file in (plain, coded))
    return np.abs(first - second).max(), first.argmax() == second.argmax(), noise


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="skin,imagenet")
    asked = parser.parse_args()
    srgb = ImageCms.createProfile("sRGB")
    paths = [p for p in sorted((ROOT / "tests" / "photos").iterdir()) if p.suffix in (".jpg", ".png", ".webp")]
    references = [Reference(name) for name in asked.models.split(",")]
    where, rows = machine(), []
    with Service("--quiet") as service:
        for path in paths:
            photo = opened(path)
            for name, profile in profiles().items():
                space = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                other = converted(photo, srgb, space)
                for kind in FILES:
                    plain, coded = encoded(photo, kind), encoded(other, kind, icc_profile=profile)
                    for reference in references:
                        first, second = (answer(service, file, reference.name) for file in (plain, coded))
                        floor = rounding(reference, plain, coded)
                        same = first.argmax() == second.argmax()
                        rows.append((path.name, name, kind, reference.name, same, np.abs(first - second).max(), *floor))
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}: {len(paths)} photos, {len(rows)} pairs")
    # A class may change if two differ by less than the noise; points may differ by as much.
    broken = [row for row in rows if row[5] > POINTS + max(row[6], row[8]) or not (row[4] or row[8] > POINTS)]
    line = "{:28} {:10} {:4} {:8} same class {!s:5} {:5.2f} points; by Pillow {:.2f}, same {!s:5}, noise {:.2f}"
    for row in sorted(rows, key=lambda row: -row[5])[:8] + broken:
        print(line.format(*row))
    for who, same, points in (("skincell", 4, 5), ("Pillow, ImageCms and ONNX Runtime", 7, 6)):
        for model, kind in sorted({(row[3], row[2]) for row in rows}):
            those = [row for row in rows if (row[3], row[2]) == (model, kind)]
            within = sum(bool(row[same]) and row[points] <= POINTS for row in those)
            print(f"{who}, {model}, {kind}: {within} of {len(those)} with the same class and within {POINTS:g} points")
    print(f"{len(broken)} beyond what rounding does")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())
