#!/usr/bin/env python3
"""Counts how often a window of photos is reported as drifted: false alarms, and alarms that are right.

    python3 drift.py [--seeds 180] [--windows 500] [--size 50] [--drawings FOLDER]

Scores held-out drawings with models/skin as they are and, of the same drawings, blurred and noisy ones and ones in
another white balance, as a new camera's would be. Draws windows of each, and prints the share whose drift is above
the limit at which `skincell classify` says that a folder is strange. Exits with 1 if more than 2 % of the unchanged
windows are above it, or less than 90 % of any changed ones. None of these drawings was fitted to. `--drawings` reads
pictures from the subfolders of a folder instead of drawing them. The statistic is Welch's: the mean of the scores'
logarithms less the card's, over the standard error of both.
"""

import argparse
import os
import pathlib
import platform
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy  # noqa: E402
from PIL import Image, ImageFilter  # noqa: E402

import draw  # noqa: E402
import familiarity  # noqa: E402
import reference  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
LIMIT = float(re.search(r"const RARE: f64 = ([0-9.]+);", (HERE / "../cli/src/classify/told.rs").read_text())[1])
FALSE, POWER = 0.02, 0.9


def blurred(pixels, rng):
    return numpy.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)))


def noisy(pixels, rng):
    return numpy.clip(pixels + rng.normal(0.0, 10.0, pixels.shape), 0, 255).astype(numpy.uint8)


def balanced(red, blue):
    def change(pixels, rng):
        return numpy.clip(pixels * numpy.array([red, 1.0, blue]), 0, 255).astype(numpy.uint8)
    return change


CHANGES = {
    "unchanged": lambda pixels, rng: pixels,
    "blurred by 2 pixels": blurred,
    "noise of 10 levels": noisy,
    "red + 25 %, blue - 25 %": balanced(1.25, 0.75),
    "red - 25 %, blue + 25 %": balanced(0.75, 1.25),
}


def drift(scores, card):
    """Welch's statistic between log scores and those of the card."""
    logs = numpy.log(scores)
    error = logs.var(ddof=1) / len(logs) + card["log_deviation"] ** 2 / card["pictures"]
    return (logs.mean() - card["log_mean"]) / numpy.sqrt(error)


def drawn(options, classes):
    """The pixels of the drawings: those in a folder, or drawn here."""
    if options.drawings:
        paths = [path for folder in sorted(options.drawings.iterdir()) for path in sorted(folder.iterdir())[:options.seeds]]
        return [numpy.asarray(Image.open(path)) for path in paths]
    jobs = [(index, familiarity.FIRST + seed) for seed in range(options.seeds) for index in range(classes)]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(familiarity.drawn, jobs, chunksize=4))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=HERE / "skin")
    parser.add_argument("--seeds", type=int, default=180, help="drawings of each class")
    parser.add_argument("--windows", type=int, default=500)
    parser.add_argument("--size", type=int, default=50, help="photos in a window")
    parser.add_argument("--drawings", type=pathlib.Path, help="a folder of drawings made before")
    options = parser.parse_args()
    model = reference.Model(options.model)
    card, rng = model.card["familiarity"], numpy.random.default_rng(24)

    def score(pixels):
        inputs = {model.card["input"]["name"]: model.tensor(draw.seen(pixels))}
        return float(model.session.run([card["output"]], inputs)[0][0, 0])

    drawings = drawn(options, len(model.labels))
    print(f"{len(drawings)} held-out drawings, {options.windows} windows of {options.size}, limit {LIMIT}; "
          f"{platform.machine()}, {time.strftime('%Y-%m-%d')}")
    low = []
    for name, change in CHANGES.items():
        scores = numpy.array([score(change(numpy.asarray(pixels), rng)) for pixels in drawings])
        windows = [rng.choice(scores, options.size, replace=False) for _ in range(options.windows)]
        found = numpy.array([drift(window, card) for window in windows])
        share = float((found >= LIMIT).mean())
        good = share <= FALSE if name == "unchanged" else share >= POWER
        low.extend([] if good else [name])
        shift = (numpy.log(scores).mean() - card["log_mean"]) / card["log_deviation"]
        print(f"{name:<26} mean shift {shift:+.2f} deviations, drift median {numpy.median(found):5.1f}, "
              f"largest {found.max():5.1f}: above the limit {share:6.1%}{'' if good else '   BELOW TARGET'}")
    sys.exit("below target: " + "; ".join(low) if low else 0)


if __name__ == "__main__":
    main()
