"""Compares every engine of the binary with the fixtures of make.py, with weights mapped as in the service.

    cargo build --release
    python3 tests/reference/engines.py [--engine cellnet --engine rten …] [NAME …]

Each network is prepared for both targets and run by `skincell model check`, for all classes of 5 photos. If
the original's map of a probability is blank, the map of the logit is expected, because the component shows it
then. Prints a line for each network and engine, then the largest differences; exits with 1 if one is above
2e-3 (maps) or 1e-5 (probabilities). ONNX Runtime is included if ORT_DYLIB_PATH names its library. The script
needs only numpy; the binary is target/release/skincell or $SKINCELL.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures"
PHOTOS, SIDE, CLASSES = 5, 32, 4
TARGETS = ["conv", "activation"]
MAP_TOLERANCE, PROBABILITY_TOLERANCE = 2e-3, 1e-5
# The last convolution of these has a bias of its own; in the graph it looks like a folded one.
OWN_BIAS = {"conv_bias", "head_none"}


def run(*arguments):
    """Runs the binary; returns its exit code and output."""
    binary = os.environ.get("SKINCELL", ROOT / "target" / "release" / "skincell")
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def answers(name, target, tensors):
    """The original's results, in the form that `model check --against` reads."""
    places = json.loads((FIXTURES / name / "expected.json").read_text())
    values = np.fromfile(FIXTURES / name / "expected.f32", "<f4")

    def part(key):
        shape = places[key]["shape"]
        return values[places[key]["offset"] :][: np.prod(shape)].reshape(shape)

    maps, logits = part(f"{target}/probability"), part(f"{target}/logit")
    blank = maps.max(axis=(2, 3), keepdims=True) == 0
    maps = np.where(blank, logits, maps)
    photos = {
        str(path): {
            "probabilities": part("probabilities")[index].tolist(),
            "heatmaps": {str(c): maps[index, c].ravel().tolist() for c in range(CLASSES)},
        }
        for index, path in enumerate(tensors)
    }
    return {"model": name, "photos": photos}


def differences(printed, engines):
    """Largest difference of a probability and of a map, by engine, from the table of `check`."""
    largest = {}
    for line in printed.splitlines():
        words = line.split()
        if not words or words[0] not in engines:
            continue
        # engine, ms, between engines ("–" or "P map M"), against the file ("P map M"), …
        between = 1 if words[2] == "–" else 3
        probability, _, heat = words[2 + between : 5 + between]
        was = largest.get(words[0], (0.0, 0.0))
        largest[words[0]] = (max(was[0], float(probability)), max(was[1], float(heat)))
    return largest


def compare(name, home, tensors, engines):
    """Prepares and checks one network for both targets; returns differences by engine, or exits."""
    largest = {}
    for target in TARGETS:
        folder = home / f"{name}-{target}"
        bias = ["--conv-bias", "own"] if name in OWN_BIAS else []
        code, said = run("model", "prepare", FIXTURES / name / "model.onnx", "--labels",
                         home / "labels.txt", "-o", folder, "--name", "reference",
                         "--cam-target", target, *bias)  # fmt: skip
        if code != 0:
            raise SystemExit(f"{name} {target}: {said}")
        kept = home / "answers.json"
        kept.write_text(json.dumps(answers(name, target, tensors)))
        flags = [word for engine in engines for word in ("--engine", engine)]
        code, said = run("model", "check", folder, *tensors, "--against", kept, *flags,
                         "--tolerance", PROBABILITY_TOLERANCE,
                         "--heatmap-tolerance", MAP_TOLERANCE)  # fmt: skip
        found = differences(said, ENGINES)
        if not found:
            raise SystemExit(f"{name} {target}: {said}")
        for engine, far in found.items():
            was = largest.get(engine, (0.0, 0.0))
            largest[engine] = tuple(max(a, b) for a, b in zip(was, far))
    return largest


ENGINES = ["cellnet", "rten", "onnxruntime"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="networks (all)")
    parser.add_argument("--engine", action="append", choices=ENGINES, default=[])
    asked = parser.parse_args()
    names = asked.names or sorted(p.name for p in FIXTURES.iterdir() if p.is_dir())
    counts, worst = {}, {}
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        (home / "labels.txt").write_text("a\nb\nc\nd\n")
        photos = np.fromfile(FIXTURES / "photos.u8", "u1").reshape(PHOTOS, 1, SIDE, SIDE, 3)
        tensors = [home / f"photo{index}.npy" for index in range(PHOTOS)]
        for path, photo in zip(tensors, photos):
            np.save(path, photo.astype("<f4"))
        for name in names:
            for engine, far in compare(name, home, tensors, asked.engine).items():
                counts[engine] = counts.get(engine, 0) + 1
                worst[engine] = tuple(max(a, b) for a, b in zip(worst.get(engine, far), far))
                print(f"{name:20} {engine:12} probabilities {far[0]:.1e}, maps {far[1]:.1e}", flush=True)
    bad = False
    for engine, (probability, heat) in worst.items():
        maps = counts[engine] * len(TARGETS) * PHOTOS * CLASSES
        print(f"{engine}: {counts[engine]} of {len(names)} networks, {maps} maps; "
              f"probabilities within {probability:.1e}, maps within {heat:.1e}")  # fmt: skip
        bad |= probability > PROBABILITY_TOLERANCE or heat > MAP_TOLERANCE
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
