"""Posts a folder of 50 photos in one request, one of them broken, and the largest bodies that a service takes:
each photo has its own answer, equal to that of a request of its own, and the instance keeps within its memory.

    python tests/clients/several.py
"""

import base64
import io
import itertools
import sys
import time

import numpy
import requests
from PIL import Image

from service import REPOSITORY, serve

PHOTOS = sorted(path for path in (REPOSITORY / "tests/photos").iterdir() if path.suffix in (".jpg", ".png", ".webp"))
BROKEN = 17
# The default of SKINCELL_MAX_BODY, and room for a form's headers.
LARGEST_BODY = (16 << 20) - (64 << 10)


def without_time(answer):
    return {name: value for name, value in answer.items() if name != "timing_ms"}


def post(address, **arguments):
    answer = requests.post(f"{address}/predict", timeout=120, **arguments)
    answer.raise_for_status()
    return answer.json()


def folder(address):
    """50 files, of which one is cut short."""
    files = [(f"{at:02}-{path.name}", path.read_bytes()) for at, path in zip(range(50), itertools.cycle(PHOTOS))]
    name, whole = files[BROKEN]
    files[BROKEN] = (name, whole[: len(whole) // 3])
    start = time.monotonic()
    answer = post(address, files=[("files", file) for file in files])
    took = time.monotonic() - start
    entries = answer["photos"]
    assert [entry["file"] for entry in entries] == [name for name, _ in files]
    assert (answer["answered"], answer["refused"]) == (49, 1), answer["refused"]
    assert entries[BROKEN]["problem"]["type"] == "urn:skincell:problem:truncated-image", entries[BROKEN]
    alone = {}
    for entry, (name, photo) in zip(entries, files):
        if entry["index"] != BROKEN:
            if photo not in alone:
                alone[photo] = without_time(post(address, files={"file": (name, photo)}))
            assert without_time(entry["prediction"]) == alone[photo], name
    print(f"a folder of 50: 49 answers equal those of {len(alone)} single requests, 1 problem, {took:.1f} s")


def by_package(address):
    """The Python package sends a folder in as few requests as it can, and gives the same answers."""
    sys.path.insert(0, str(REPOSITORY / "python"))
    import skincell

    client = skincell.Client(address)
    photos = [*PHOTOS[:3], b"no photo"] * 20
    found = client.predict_all(photos, heatmap=False, top_k=1)
    assert len(found) == 80
    for at, (photo, answer) in enumerate(zip(photos, found)):
        if isinstance(photo, bytes):
            assert isinstance(answer, skincell.Problem) and answer.status == 415, answer
        elif at < 4:
            assert answer.results == client.predict(photo, heatmap=False, top_k=1).results
    print("skincell.Client.predict_all: 60 answers and 20 problems of 80 photos, in 2 requests or more")


def noise(side, kind, seed):
    """A photo of incompressible pixels."""
    pixels = numpy.random.default_rng(seed).integers(0, 256, (side, side, 3), numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def largest(address):
    """Bodies that reach the limit: many small photos, a few large ones, and base64 in JSON; all with heatmaps."""
    for name, count, photo in [
        ("64 JPEGs", 64, noise(330, "JPEG", 1)),
        ("5 PNGs of 1 megapixel", 5, noise(1000, "PNG", 2)),
        ("a PNG of 5 megapixels", 1, noise(2280, "PNG", 3)),
    ]:
        count = min(count, LARGEST_BODY // len(photo))
        bodies = [{"files": [("files", (f"{at}", photo)) for at in range(count)]}]
        texts = [base64.b64encode(photo).decode()] * min(count, LARGEST_BODY // (len(photo) * 4 // 3 + 8))
        if texts:
            bodies.append({"json": {"images": texts}})
        for body in bodies:
            answer = post(address, **body)
            entries = answer.get("photos", [{"prediction": answer}])
            shown = sum("heatmap_missing" not in entry["prediction"] for entry in entries)
            form = "JSON" if "json" in body else "a form"
            print(f"{name}, {len(entries)} in {form} of {len(photo) * len(entries) / (1 << 20):.1f} MiB: "
                  f"all answered, {shown} with a heatmap")
            assert shown >= min(len(entries), 30), entries[-1]


def main():
    # 50 photos in one request take half a minute in the dev profile of a busy machine.
    with serve("--request-timeout", "120s") as address:
        folder(address)
        by_package(address)
        largest(address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
