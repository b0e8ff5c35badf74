#!/usr/bin/env python3
"""Draws seeded pictures of no skin at all: colours, shapes, lines and textures by chance.

    python3 scenes.py SHEET.png    a sheet of 32

The head learns from them to prefer no class where there is no skin. What it has never been told
about a kind of picture, it decides by chance, and large weights make that chance hang on rounding.
A picture is a function of its seed alone. It leaves out skin: `draw.py`.
"""

import pathlib
import sys

import numpy
from PIL import Image

from canvas import blob, blur, cells, cloud, grid, smoothstep, stroke, wander
from wear import wear

SIDE = 240  # pixels
MOST_THINGS = 8


def scene(seed):
    """Draws picture `seed`: u8 [height, width, 3], sRGB, of varying size."""
    rng = numpy.random.Generator(numpy.random.PCG64([seed, 9]))
    shape = (SIDE, SIDE)
    picture = _ground(rng, shape)
    for _ in range(rng.integers(0, MOST_THINGS + 1)):
        cover = THINGS[rng.integers(len(THINGS))](rng, shape)[..., None]
        shade = 1.0
        if rng.random() < 0.5:
            shade = 0.6 + 0.8 * smoothstep(-1, 1, cloud(rng, shape, rng.uniform(5, 80)))[..., None]
        picture = picture * (1.0 - cover) + cover * _colour(rng) * shade
    if rng.random() < 0.4:  # shadows
        picture = picture * (1.0 - 0.7 * smoothstep(-1, 1, cloud(rng, shape, rng.uniform(30, 160))))[..., None]
    if rng.random() < 0.2:
        picture = numpy.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    picture = blur(numpy.clip(picture, 0.0, 1.0), rng.choice([0.0, 0.5, 0.8, 1.5, 3.0]))
    picture = picture + rng.uniform(0.0, 0.03) * rng.standard_normal(shape)[..., None]
    pixels = numpy.clip(numpy.rint(picture * 255.0), 0, 255).astype(numpy.uint8)
    return wear(rng, pixels) if rng.random() < 0.5 else pixels


def _colour(rng):
    return rng.random(3) ** rng.uniform(0.5, 2.0)


def _ground(rng, shape):
    """Two colours in clouds or a gradient; often faint."""
    first, second = _colour(rng), _colour(rng)
    if rng.random() < 0.3:
        share = numpy.clip(0.5 + 0.7 * _across(rng, shape) / SIDE, 0.0, 1.0)
    else:
        texture = cloud(rng, shape, rng.uniform(20, 200), 5, rng.uniform(0.4, 0.8))
        share = smoothstep(-1.5, 1.5, texture)
    if rng.random() < 0.4:
        share = 0.5 + rng.uniform(0.0, 0.3) * (share - 0.5)
    return first + (second - first) * share[..., None]


def _across(rng, shape):
    """Pixels along a random direction, 0 in the middle."""
    (row, column), turn = grid(*shape), rng.random() * 2.0 * numpy.pi
    return (row - SIDE / 2) * numpy.sin(turn) + (column - SIDE / 2) * numpy.cos(turn)


def _patch(rng, shape):
    far = blob(rng, shape, rng.random(2) * SIDE, rng.uniform(8, 90), rng.uniform(0.0, 0.4),
               rng.uniform(0.0, 0.1), rng.uniform(0.3, 1.0))
    return smoothstep(1.0 + rng.uniform(0.01, 0.3), 1.0, far)


def _plank(rng, shape):
    (row, column), (y, x) = grid(*shape), rng.random(2) * SIDE
    turn = rng.random() * numpy.pi if rng.random() < 0.4 else 0.0
    along = (row - y) * numpy.cos(turn) + (column - x) * numpy.sin(turn)
    across = (column - x) * numpy.cos(turn) - (row - y) * numpy.sin(turn)
    long, wide = rng.uniform(5, 150, 2)
    return ((abs(along) < long / 2) & (abs(across) < wide / 2)).astype(float)


def _line(rng, shape):
    path = wander(rng, rng.random(2) * SIDE, rng.random() * 6.3, rng.uniform(40, 300), rng.uniform(0, 3))
    return stroke(shape, path, rng.uniform(1, 14))


def _tiles(rng, shape):
    near, second, value = cells(rng, shape, rng.uniform(8, 60))
    tiles = smoothstep(0.0, 0.3, second - near) if rng.random() < 0.5 else (value > 0.6) * 1.0
    return tiles * rng.uniform(0.2, 1.0)


def _stripes(rng, shape):
    stripes = numpy.sin(2.0 * numpy.pi * _across(rng, shape) / rng.uniform(4, 60)) > 0
    return stripes * rng.uniform(0.2, 1.0) * _patch(rng, shape)


THINGS = [_patch, _plank, _line, _tiles, _stripes]


def main():
    rows = [[numpy.asarray(Image.fromarray(scene(8 * row + column)).resize((160, 160)))
             for column in range(8)] for row in range(4)]
    sheet = numpy.concatenate([numpy.concatenate(row, axis=1) for row in rows])
    Image.fromarray(sheet).save(pathlib.Path(sys.argv[1]))


if __name__ == "__main__":
    main()
