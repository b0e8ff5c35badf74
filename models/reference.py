#!/usr/bin/env python3
"""Runs a served model with Pillow and ONNX Runtime, as a reference for the service.

Steps: decode, apply EXIF orientation, convert an RGB profile to sRGB, composite alpha over white, stretch to the
card's size by Lanczos, `(pixel - mean) / std`, softmax. HTTP, overlays and speed are left out.
"""

import io
import json
import pathlib

import numpy
import onnxruntime
from PIL import Image, ImageCms, ImageOps

import gradcam


def in_srgb(image):
    """The image with the colours of its embedded RGB profile converted to sRGB, as browsers show it."""
    embedded = image.info.get("icc_profile")
    if not embedded or image.mode != "RGB":
        return image
    profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), renderingIntent=intent)


def opaque(image):
    """The image in RGB, over white where it is transparent."""
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        image = Image.new("RGBA", colour.size, "white")
        image.alpha_composite(colour)
    return image.convert("RGB")


class Model:
    """A folder of models/: its card and an ONNX Runtime session."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.card = json.loads((folder / "card.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self.labels = [entry["label"] for entry in self.card["classes"]]
        self.names = [self.card["output"]["name"]]
        if self.card.get("gradcam"):
            self.names.append(self.card["gradcam"]["output"])

    def tensor(self, pixels):
        """Pixels u8 [height, width, 3], RGB, of the card's size, as the input tensor."""
        entry = self.card["input"]
        if (entry["layout"], entry["dtype"]) != ("nchw", "f32"):
            raise ValueError(f"this reference feeds nchw f32, the card wants {entry}")
        mean, std = (numpy.array(entry[key], numpy.float32) for key in ("mean", "std"))
        scaled = (pixels.astype(numpy.float32) - mean) / std
        return numpy.ascontiguousarray(scaled.transpose(2, 0, 1)[None])

    def run(self, pixels):
        """Probabilities f64 [classes] and Grad-CAM maps f64 [classes, h, w] (or None)."""
        found = self.session.run(self.names, {self.card["input"]["name"]: self.tensor(pixels)})
        maps = found[1][0].astype(numpy.float64) if len(found) > 1 else None
        return gradcam.softmax(found[0][0].astype(numpy.float64)), maps

    def calibrated(self, probabilities):
        """The probabilities as the service answers them, with the card's temperature, if it has one."""
        powers = probabilities ** (1.0 / self.card.get("calibration", {}).get("temperature", 1.0))
        return powers / powers.sum()

    def photo(self, path):
        """A photograph's pixels at the card's size, u8 [height, width, 3]."""
        with Image.open(path) as image:
            size = (self.card["input"]["width"], self.card["input"]["height"])
            return numpy.asarray(opaque(in_srgb(ImageOps.exif_transpose(image))).resize(size, Image.Resampling.LANCZOS))

    def top(self, probabilities, count):
        """The `count` likeliest classes: [(index, label, probability 0–1)], sorted."""
        order = numpy.argsort(-probabilities, kind="stable")[:count]
        return [(int(i), self.labels[i], float(probabilities[i])) for i in order]
