"""Makes the expected pictures of `view`: the results of training pipelines for the same noise.

    python views.py pillow torchvision tensorflow     # each needs the library it names, and Pillow 12.3

Pillow up to 12, with which today's models were trained, resamples horizontally and then vertically, rounding
to 8 bits between the two. Pillow 13 begins vertically if that is cheaper; on noise its results differ by up
to 9 levels. On photos the two agree: all of `tests/photos` with three filters at three sizes, 207 pictures,
are equal to the byte. These pictures are made with Pillow 12.3.

Every file is `view_<name>.rgb`, of the size given in the test in `src/view.rs`. Inputs come from the formula
in `make.py`. TensorFlow's results are rounded to the nearest level.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
WIDE, TALL = (161, 120), (57, 93)
TARGET = (48, 40)


def noise(count, seed):
    """As in make.py, repeated because make.py imports libraries that are not needed here."""
    out, mask = np.empty(count, np.uint8), 2**64 - 1
    for i in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        mixed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        out[i] = (mixed ^ (mixed >> 31)) & 255
    return out


def photo(size):
    width, height = size
    return noise(width * height * 3, width).reshape(height, width, 3)


def keep(name, pixels):
    (HERE / f"view_{name}.rgb").write_bytes(np.ascontiguousarray(pixels, np.uint8).tobytes())


def pillow():
    kinds = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR, "nearest": Image.NEAREST}
    for shape, size in [("wide", WIDE), ("tall", TALL)]:
        picture = Image.fromarray(photo(size))
        for kind, method in kinds.items():
            keep(f"{kind}_{shape}", picture.resize(TARGET, method))
        keep(f"cover_{shape}", ImageOps.fit(picture, TARGET, Image.LANCZOS))
        keep(f"squash_{shape}", picture.resize((55, 55), Image.BICUBIC).crop((3, 3, 52, 52)))
        keep(f"pad_{shape}", ImageOps.pad(picture, TARGET, Image.BICUBIC, color=(10, 20, 30)))


def torchvision():
    from torchvision import transforms as t

    for shape, size in [("wide", WIDE), ("tall", TALL)]:
        picture = Image.fromarray(photo(size))
        for kind, method in [("bilinear", t.InterpolationMode.BILINEAR), ("bicubic", t.InterpolationMode.BICUBIC)]:
            keep(f"crop_{kind}_{shape}", t.CenterCrop(49)(t.Resize(55, method)(picture)))


def tensorflow():
    import tensorflow as tf

    width, height = TARGET
    for shape, size in [("wide", WIDE), ("tall", TALL), ("tiny", (7, 5))]:
        for kind in ["bilinear", "bicubic", "nearest"]:
            made = tf.image.resize(photo(size).astype("float32"), (height, width), kind).numpy()
            keep(f"sharp_{kind}_{shape}", np.clip(np.floor(made + 0.5), 0, 255))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        {"pillow": pillow, "torchvision": torchvision, "tensorflow": tensorflow}[name]()
