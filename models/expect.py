#!/usr/bin/env python3
"""Says what both models answer for each test photo, and checks that the right object is found.

    python3 expect.py            compare with tests/photos/expected.json, fail if something moved
    python3 expect.py --write    write expected.json and tests/photos/README.md anew

The answers come from ONNX Runtime through the plain pipeline of `reference.py`. The service differs
from it in the last digits: it decodes and resizes with other code (each pixel within a few levels,
large JPEGs are scaled while decoding) and runs another engine. TOLERANCE is the largest difference
of a probability, of any class of the top five, that a test should accept. It leaves out heatmaps,
which `evaluate.py` judges.
"""

import argparse
import json
import pathlib
import sys

import photos
import reference

HERE = pathlib.Path(__file__).resolve().parent
MODELS = ("imagenet", "skin")
TOLERANCE = 0.05  # probability, 0 to 1
REPEAT = 2e-4  # between two runs of this script, on whatever machine
TOP, FOUND_WITHIN = 5, 3


def answers(models, entry):
    """The entry of expected.json for one photo."""
    path = photos.FOLDER / entry["file"]
    out = {"file": entry["file"]}
    if "imagenet" in entry:
        out["shows"] = entry["imagenet"]
    else:
        out["drawn"] = models["skin"].labels[entry["class"]]
    for name, model in models.items():
        probabilities = model.calibrated(model.run(model.photo(path))[0])
        out[name] = [{"class": label, "index": index, "probability": round(share, 5)}
                     for index, label, share in model.top(probabilities, TOP)]
    return out


def missed(found):
    """Whether a photograph that shows an ImageNet class has none of its labels in the top 3."""
    best = [entry["class"] for entry in found["imagenet"][:FOUND_WITHIN]]
    return bool(found.get("shows")) and not set(best) & set(found["shows"])


def moved(found, kept):
    """What differs between two entries: a list of sentences."""
    out = []
    for name in MODELS:
        before = {entry["class"]: entry["probability"] for entry in kept.get(name, [])}
        for entry in found[name]:
            was = before.get(entry["class"])
            if was is None or abs(was - entry["probability"]) > REPEAT:
                out.append(f"{found['file']}: {name} gives {entry['class']} "
                           f"{entry['probability']:.5f}, kept is {was}")
    return out


def readme(listed, found):
    """The text of tests/photos/README.md."""
    lines = [
        "# Test photos", "",
        "Made by `models/photos.py` from `sources.toml`; this page and `expected.json` are written by",
        "`models/expect.py --write`. `expected.json` keeps the five likeliest classes of both models,",
        f"computed by ONNX Runtime; a test of the service should allow {TOLERANCE} of difference in a",
        "probability, because it decodes, resizes and computes with other code.", "",
        "The drawings come from seeds that never train the skin head. Neither they nor the head say",
        "anything about patients.", "",
        "## Photographs", "",
        "| file | shows | from | licence, credit | models/imagenet says |",
        "|---|---|---|---|---|",
    ]
    for photo in listed[0]:
        top = ", ".join(f"{e['class']} {100 * e['probability']:.0f} %"
                        for e in found[photo["file"]]["imagenet"][:FOUND_WITHIN])
        lines.append(f"| `{photo['file']}` | {photo['shows']} | {photo['package']}, "
                     f"`{photo['path']}` | {photo['license']}, {photo['credit']} | {top} |")
    lines += ["", "## Drawings (Apache-2.0, this repository)", "",
              "| file | drawn class | seed | models/skin says |", "|---|---|---|---|"]
    for drawing in listed[1]:
        entry = found[drawing["file"]]
        first = entry["skin"][0]
        lines.append(f"| `{drawing['file']}` | {entry['drawn']} | {drawing['seed']} | "
                     f"{first['class']} {100 * first['probability']:.0f} % |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, default=HERE)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    models = {name: reference.Model(options.models / name) for name in MODELS}
    listed = photos.sources()
    found = [answers(models, entry) for entry in listed[0] + listed[1]]
    for entry in found:
        best = ", ".join(f"{e['class']} {e['probability']:.3f}" for e in entry["imagenet"][:FOUND_WITHIN])
        first = entry["skin"][0]
        print(f"{entry['file']:<28} imagenet: {best}\n{'':<28} skin: {first['class']} "
              f"{first['probability']:.3f}{'   MISSED ' + str(entry['shows']) if missed(entry) else ''}")
    record = photos.FOLDER / "expected.json"
    problems = [f"{e['file']}: none of {e['shows']} in the top {FOUND_WITHIN}" for e in found if missed(e)]
    if options.write:
        by_file = {entry["file"]: entry for entry in found}
        content = {"made_by": "models/expect.py --write", "tolerance": TOLERANCE, "photos": found}
        record.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        (photos.FOLDER / "README.md").write_text(readme(listed, by_file))
    else:
        kept = {entry["file"]: entry for entry in json.loads(record.read_text())["photos"]}
        for entry in found:
            problems += moved(entry, kept.get(entry["file"], {}))
    if problems:
        sys.exit("\n".join(problems))
    print(f"{sum(bool(e.get('shows')) for e in found)} photographs show an ImageNet class; "
          f"each has it in the top {FOUND_WITHIN}")


if __name__ == "__main__":
    main()
