#!/usr/bin/env python3
"""Draws seeded pictures of skin, one per (class, seed), with the mask of the drawn mark.

    python3 draw.py SHEET.png [--seed 1] [--columns 6]    a sheet: one row per class
    python3 draw.py FOLDER --seeds 10 20                  single pictures and masks

A picture is a function of its class, its seed and its size alone: the generator (numpy's PCG64)
is seeded with class and seed, and all drawing is float64. Seeds below TUNING train the head; from
there to HELD_OUT they chose its settings; from HELD_OUT on they test it. It leaves out
the learning: `make.py`.
"""

import argparse
import io
import pathlib
from dataclasses import dataclass

import numpy
from PIL import Image

import marks
import skin as skins

TUNING = 1_000_000
HELD_OUT = 2_000_000
SIDE = 320  # pixels of the shorter side, where marks have the size their functions name


@dataclass
class Drawing:
    """A drawn photograph."""

    pixels: numpy.ndarray  # u8 [height, width, 3], sRGB
    mask: numpy.ndarray  # bool [height, width], the mark with the redness that belongs to it


def draw(index, seed, shape=None):
    """Draws class `index` (0–6) with `seed`; `shape` is (height, width), random if left out."""
    rng = numpy.random.Generator(numpy.random.PCG64([index, seed]))
    sides = [(SIDE, SIDE), (SIDE, 360), (SIDE, 400), (SIDE, 426), (360, SIDE), (400, SIDE)]
    chosen = sides[int(rng.integers(len(sides)))]
    shape = chosen if shape is None else shape
    tone = float(numpy.clip(rng.beta(1.1, 1.2), 0.0, 1.0))
    skin = skins.clear(rng, shape, tone)
    marks.BY_CLASS[index](rng, skin)
    pixels = skins.develop(rng, skin)
    return Drawing(_compress(rng, pixels), skin.mask > 0.5)


def _compress(rng, pixels):
    """What a camera's JPEG leaves of the picture; half of them stay as they are."""
    if rng.random() < 0.5:
        return pixels
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=int(rng.integers(45, 95)))
    return numpy.asarray(Image.open(stream))


def seen(pixels, side=224):
    """A picture as the network sees it, u8 [side, side, 3]: stretched by Pillow's Lanczos, which
    computes in fixed point."""
    return numpy.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))


def square(drawing, side=224):
    """The drawing as the network sees it: (pixels u8 [side, side, 3], mask bool [side, side])."""
    mask = Image.fromarray(drawing.mask.astype(numpy.uint8) * 255)
    mask = mask.resize((side, side), Image.Resampling.BOX)
    return seen(drawing.pixels, side), numpy.asarray(mask) >= 128


def outline(mask):
    """The pixels of `mask` that touch its outside, bool [height, width]."""
    inner = mask.copy()
    inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return mask & ~inner


def sheet(seed, columns, side=160, outlined=True):
    """A contact sheet u8 [7 * side, columns * side, 3], masks outlined in white."""
    rows = []
    for index in range(len(marks.BY_CLASS)):
        row = []
        for column in range(columns):
            pixels, mask = square(draw(index, seed + column), side)
            pixels = pixels.copy()
            if outlined:
                pixels[outline(mask)] = 255
            row.append(pixels)
        rows.append(numpy.concatenate(row, axis=1))
    return numpy.concatenate(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--plain", action="store_true", help="no mask outlines on the sheet")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "END"))
    options = parser.parse_args()
    if options.seeds is None:
        pixels = sheet(options.seed, options.columns, options.side, not options.plain)
        Image.fromarray(pixels).save(options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for index in range(len(marks.BY_CLASS)):
        for seed in range(*options.seeds):
            drawing = draw(index, seed)
            Image.fromarray(drawing.pixels).save(options.out / f"{index}-{seed}.png")
            Image.fromarray(drawing.mask).save(options.out / f"{index}-{seed}-mask.png")


if __name__ == "__main__":
    main()
