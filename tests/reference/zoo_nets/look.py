"""Compares served answers with a framework's own probabilities, and with Grad-CAM by its own gradient.

A reference is a function from a photo to `Seen`. The framework's tensor that corresponds to the card's layer
is found by value: ONNX Runtime runs the prepared graph up to that layer, and the first tensor of the
framework with the same numbers, in any order of axes, is taken.
"""

import json
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import onnx
import onnxruntime

from zoo_nets import served


@dataclass
class Tensor:
    """A tensor of the framework's run: the operation that computed it, and its numbers."""

    made_by: str
    values: np.ndarray
    handle: Any


@dataclass
class Seen:
    """A framework's results for one photo."""

    probabilities: np.ndarray
    tensors: list
    # From a class and a tensor's handle to the gradient of that class's probability.
    gradient: Callable


@dataclass
class Net:
    """A model's file, the flags that prepare it, its photo's width and height, and its reference."""

    file: Any
    flags: list
    size: tuple
    reference: Callable
    # Tolerances: 1e-4 and 2e-3 unless the file itself rounds.
    probability: float = 1e-4
    heatmap: float = 2e-3
    # Its source, for the table.
    exported: str = ""
    # The framework's own probabilities of a photo in float32, where the reference is of float64.
    single: Callable | None = None


def layer_values(folder, card, photo):
    """The prepared graph's values at the card's layer for one photo."""
    path = folder / "models/net/model.onnx"
    model = onnx.load(path, load_external_data=False)
    layer = card["gradcam"]["layer"]
    named = [n for n in model.graph.node if n.name == layer] or [n for n in model.graph.node if layer in n.output]
    value = named[0].output[0]
    model.graph.output.append(onnx.ValueInfoProto(name=value))
    beside = path.with_name("looked.onnx")
    onnx.save(model, beside)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # In half precision even basic optimisations change intermediate values.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(beside, options, providers=["CPUExecutionProvider"])
    beside.unlink()
    fields = {field["name"]: np.reshape(np.asarray(field["default"], "float32"), field["shape"])
              for field in card.get("fields", [])}
    return session.run([value], fields | {card["input"]["name"]: tensor(card, photo)})[0]


def tensor(card, photo):
    """The input tensor of a photo of the input's size, as the card describes it."""
    entry = card["input"]
    pixels = photo.astype("float32")
    if entry["dtype"] == "u8":
        pixels = photo
    else:
        pixels = (pixels - np.float32(entry["mean"])) / np.float32(entry["std"])
    pixels = pixels[..., ::-1] if entry.get("order") == "bgr" else pixels
    pixels = pixels if entry["layout"] == "nhwc" else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None])


def turned(shape, wanted):
    """Permutations of axes that bring `shape` to `wanted`, for the orders that exporters use."""
    orders = {3: [(0, 1, 2), (0, 2, 1)], 4: [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)]}.get(len(shape), [])
    return [order for order in orders if tuple(shape[axis] for axis in order) == tuple(wanted)]


def distance(values, wanted):
    """Largest difference of a tensor from the wanted numbers, relative to the largest of them; None if the
    shapes differ."""
    most = abs(wanted).max() + 1e-30
    found = [values.transpose(order) for order in turned(values.shape, wanted.shape)]
    if not found and values.size == wanted.size and values.ndim != wanted.ndim:
        # Tokens [1, places, channels] beside a map [1, height, width, channels] or [1, channels, height,
        # width].
        flat = values.reshape(wanted.shape) if values.shape[-1] == wanted.shape[-1] else None
        moved = values.swapaxes(-1, 1).reshape(wanted.shape) if values.ndim == 3 and values.shape[-1] == wanted.shape[1] else None
        found = [v for v in (flat, moved) if v is not None]
    return min((abs(v - wanted).max() / most for v in found), default=None)


def scaled(values, wanted):
    """Whether `wanted` equals the tensor times a factor plus a term, both per channel."""
    if values.ndim != 4:
        return False
    for order in turned(values.shape, wanted.shape):
        moved = values.transpose(order)
        # Prefers the layout with more channels than rows.
        axis = 1 if wanted.shape[1] > wanted.shape[3] else 3
        flat = lambda v: np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1)
        a, b = flat(moved), flat(wanted)
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        slope = (a * b).sum(1) / np.maximum((a * a).sum(1), 1e-30)
        if abs(b - slope[:, None] * a).max() <= 2e-3 * abs(b).max():
            return True
    return False


def find(tensors, wanted, target, tolerance):
    """The framework's tensor that corresponds to the card's layer.

    For the target `conv` it is the convolution's raw output: the first tensor of which the layer is a
    multiple per channel, because the batch norm may be folded into the layer, wholly or in part.
    """
    if target == "conv":
        return next((one for one in tensors if scaled(one.values, wanted)), None)
    near = ((one, distance(one.values, wanted)) for one in tensors)
    return next((one for one, off in near if off is not None and off <= tolerance), None)


def heat(values, gradient, height, width):
    """Grad-CAM, normalised: rows from the top, 0 to 1."""
    if values.ndim == 3:  # tokens, of which the first do not belong to the photo
        places = height * width
        axis = 1 if values.shape[1] >= places and values.shape[1] - places < 16 else 2
        values, gradient = (v if axis == 1 else v.swapaxes(1, 2) for v in (values, gradient))
        extra = values.shape[1] - places
        values, gradient = values[:, extra:], gradient[:, extra:]
        cam = (gradient.mean(1, keepdims=True) * values).sum(-1)[0].reshape(height, width)
    elif values.shape[2:] == (height, width):
        cam = (gradient.mean((2, 3), keepdims=True) * values).sum(1)[0]
    else:
        cam = (gradient.mean((1, 2), keepdims=True) * values).sum(-1)[0]
    cam = np.maximum(cam, 0)
    return cam / cam.max() if cam.max() > 1e-10 else cam * 0


def one_photo(answer, seen, layer, card, worst):
    """Updates `worst` with the differences of one answer."""
    for result in answer["results"]:
        off = abs(result["probability"] / 100 - seen.probabilities[result["index"]])
        worst["probability"] = max(worst["probability"], float(off))
    entry = card["gradcam"]
    for found in answer.get("heatmap_maps") or []:
        if found["basis"] != "probability" or layer is None:
            continue
        height, width = found["height"], found["width"]
        gradient = seen.gradient(found["index"], layer.handle)
        right = heat(layer.values, gradient, entry["height"], entry["width"])
        off = abs(np.array(found["values"]).reshape(height, width) - right).max()
        worst["heatmap"] = max(worst["heatmap"] or 0.0, float(off))
        worst["maps"] += 1


def compare(net, folder, cache):
    """The row of one model."""
    try:
        card, _ = served.prepare(net.file, folder, net.flags)
    except served.Refused as why:
        return {"outcome": "refused", "reason": str(why)}
    pictures = served.photos(*net.size)
    seen = [net.reference(photo) for photo in pictures]
    layers, made_by = [None] * len(pictures), None
    if card["gradcam"]:
        loose = max(2e-3, 20 * net.probability)
        values = [layer_values(folder, card, photo).astype("float64") for photo in pictures]
        target = card["gradcam"]["target"]
        layers = [find(s.tensors, v, target, loose) for s, v in zip(seen, values)]
        if any(layer is None for layer in layers):
            return {"outcome": "wrong", "reason": f"no tensor of the framework is layer {card['gradcam']['layer']!r}"}
        made_by = layers[0].made_by
    able = served.engines(folder)
    worst = {"probability": 0.0, "heatmap": None, "maps": 0}
    for engine in able:
        with served.served(folder, engine, cache) as ask:
            for photo, right, layer in zip(pictures, seen, layers):
                one_photo(ask(photo), right, layer, card, worst)
    # The error of the framework's own float32, reported beside the engine's.
    own = max(abs(net.single(photo) - right.probabilities).max() for photo, right in zip(pictures, seen)) if net.single else 0.0
    wrong = worst["probability"] > net.probability or (worst["heatmap"] or 0) > net.heatmap
    unseen = bool(card["gradcam"]) and worst["maps"] == 0
    row = {"outcome": "wrong" if wrong else "unseen" if unseen else "right", "engine": able[0], "engines": able, **worst,
           "own": float(own),
           "reason": card["gradcam_missing"] or "", "likeliest": [float(s.probabilities.max()) for s in seen]}
    if card["gradcam"]:
        entry = card["gradcam"]
        row |= {"map": f"{entry['width']}×{entry['height']}", "target": entry["target"], "layer": entry["layer"],
                "made_by": made_by}
    return json.loads(json.dumps(row))
