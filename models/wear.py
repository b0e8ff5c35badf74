#!/usr/bin/env python3
"""What programs and websites do to a photo on its way: size, focus, colours, noise, JPEG.

The head learns each drawing a second time after this, so that it does not hang on what such steps
change. Pillow resizes, blurs and compresses in whole numbers; colours and noise are float64,
rounded to 8 bits. It leaves out what a camera does while it takes the photo: `skin.py`.
"""

import io

import numpy
from PIL import Image, ImageFilter

FILTERS = [Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC,
           Image.Resampling.LANCZOS]
LUMA = numpy.array([0.299, 0.587, 0.114])


def wear(rng, pixels):
    """The picture u8 [height, width, 3], sRGB, as it arrives, at 0.6 to 2.5 times its size."""
    image, factor = Image.fromarray(pixels), float(numpy.exp(rng.uniform(-0.5, 0.9)))
    size = (round(image.width * factor), round(image.height * factor))
    image = image.resize(size, FILTERS[rng.integers(len(FILTERS))])
    focus = rng.random()
    if focus < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3) * factor))
    elif focus < 0.7:
        image = image.filter(ImageFilter.UnsharpMask(2.0 * factor, int(rng.integers(30, 120)), 0))
    worn = _recoloured(rng, numpy.asarray(image) / 255.0)
    worn = worn + rng.uniform(0.0, 0.03) * rng.standard_normal(worn.shape)
    worn = numpy.clip(numpy.rint(worn * 255.0), 0, 255).astype(numpy.uint8)
    for _ in range(rng.integers(1, 3)):
        worn = _compressed(rng, worn)
    return worn


def _recoloured(rng, colour):
    """Saturation, cast and gamma, as a profile that was ignored or a filter changes them; 0 to 1."""
    grey = (colour * LUMA).sum(axis=2, keepdims=True)
    colour = grey + (1.0 + 0.18 * rng.standard_normal()) * (colour - grey)
    cast = numpy.exp(rng.standard_normal(3) * numpy.array([0.05, 0.03, 0.07]))
    return numpy.clip(colour * cast, 0.0, 1.0) ** numpy.exp(0.12 * rng.standard_normal())


def _compressed(rng, pixels):
    """The picture after a JPEG of quality 30 to 95 with any subsampling of the chroma."""
    stream = io.BytesIO()
    quality, subsampling = int(rng.integers(30, 96)), int(rng.integers(3))
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=subsampling)
    return numpy.asarray(Image.open(stream))
