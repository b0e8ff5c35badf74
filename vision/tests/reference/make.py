"""Makes the reference results beside this file with the libraries that the origin app used.

Run with the pinned versions (`pip install -r requirements.txt`), from any folder; the bytes are the same
each time. Inputs come from the formula in `noise`, which the Rust tests repeat, so only results are kept:

- `jet.rgb`: matplotlib's `jet`, 256 levels, 3 bytes each. `viridis`, `inferno` and `turbo` are tables, not
  formulas, so theirs are written to `vision/src/overlay`, where the crate reads them.
- `lanczos_<from>_<to>.rgb`: Pillow's LANCZOS; with `_of_<box>` only that part of the source.
- `bilinear_<from>_<to>.f32`: OpenCV's INTER_LINEAR on float32, little-endian.
- `overlay.rgb`: jet over a photo with alpha 0.4, computed in float64 as in the origin app and rounded
  to bytes here.
"""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image

HERE = Path(__file__).parent


def noise(count, seed):
    """Seeded bytes from the generator of the Rust tests (splitmix64, the lowest byte of each number)."""
    out, mask = np.empty(count, np.uint8), 2**64 - 1
    for i in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        mixed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        out[i] = (mixed ^ (mixed >> 31)) & 255
    return out


def jet():
    table = matplotlib.colormaps["jet"].resampled(256)(np.arange(256), bytes=True)
    (HERE / "jet.rgb").write_bytes(table[:, :3].tobytes())
    for name in ("viridis", "inferno", "turbo"):
        table = matplotlib.colormaps[name].resampled(256)(np.arange(256), bytes=True)
        (HERE.parents[1] / "src/overlay" / f"{name}.rgb").write_bytes(table[:, :3].tobytes())
    return matplotlib.colormaps["jet"]


def lanczos():
    sizes = [
        ((160, 120), (75, 75), None),
        ((60, 45), (75, 75), None),
        ((500, 333), (64, 48), None),
        ((7, 5), (20, 30), None),
        ((75, 74), (75, 75), None),
        ((1, 1), (4, 3), None),
        ((168, 126), (75, 75), (0, 0, 167.625, 125.375)),
        ((168, 126), (75, 75), (0.375, 0.625, 168, 126)),
    ]
    for (width, height), target, box in sizes:
        pixels = noise(width * height * 3, width).reshape(height, width, 3)
        result = Image.fromarray(pixels).resize(target, Image.Resampling.LANCZOS, box=box)
        part = "" if box is None else "_of_" + "_".join(f"{side:g}" for side in box)
        name = f"lanczos_{width}x{height}_{target[0]}x{target[1]}{part}.rgb"
        (HERE / name).write_bytes(np.asarray(result).tobytes())


def bilinear():
    for (width, height), target in [
        ((10, 10), (37, 23)),
        ((3, 5), (8, 6)),
        ((1, 1), (5, 4)),
        ((7, 1), (3, 3)),
        ((9, 9), (9, 9)),
    ]:
        values = (noise(width * height, width) / np.float32(255)).reshape(height, width)
        result = cv2.resize(values.astype(np.float32), target, interpolation=cv2.INTER_LINEAR)
        name = f"bilinear_{width}x{height}_{target[0]}x{target[1]}.f32"
        (HERE / name).write_bytes(result.astype("<f4").tobytes())


def overlay(colormap):
    """A 10x10 heatmap over a 40x30 photo."""
    photo = noise(40 * 30 * 3, 40).reshape(30, 40, 3)
    heatmap = (noise(100, 10) / np.float32(255)).reshape(10, 10).astype(np.float32)
    heatmap /= heatmap.max()
    large = cv2.resize(heatmap, (40, 30), interpolation=cv2.INTER_LINEAR)
    colours = colormap(large)[..., :3] * 255
    blended = photo * 0.6 + colours * 0.4
    (HERE / "overlay.rgb").write_bytes(np.floor(blended + 0.5).astype(np.uint8).tobytes())


if __name__ == "__main__":
    lanczos()
    bilinear()
    overlay(jet())
