"""Draws different photos by a seeded recipe, as PNGs, so that no two get the same answer.

Only the standard library.
"""

import random
import struct
import zlib


def png(width, height, rows):
    """An RGB PNG of these rows of bytes."""
    chunk = lambda kind, data: (struct.pack(">I", len(data)) + kind + data
                                + struct.pack(">I", zlib.crc32(kind + data)))
    pixels = b"".join(b"\0" + row for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")


def drawn(seed, side=256):
    """A patch of one colour with some discs of another."""
    dice = random.Random(seed)
    ground = [dice.randrange(120, 240), dice.randrange(80, 200), dice.randrange(60, 180)]
    mark = [dice.randrange(60, 220), dice.randrange(20, 120), dice.randrange(20, 120)]
    discs = [(dice.randrange(side), dice.randrange(side), dice.randrange(8, 60) ** 2) for _ in range(6)]
    rows = []
    for y in range(side):
        row = bytearray()
        for x in range(side):
            row += bytes(mark if any((x - a) ** 2 + (y - b) ** 2 < r for a, b, r in discs) else ground)
        rows.append(bytes(row))
    return png(side, side, rows)


def variants(some, count):
    """This many different photos: the given ones first, then drawn ones."""
    some = list(dict.fromkeys(some))[:count]
    return some + [drawn(seed) for seed in range(count - len(some))]
