"""Makes the fixtures of Grad-CAM: ONNX models, photos, and maps by the original method.

    python3 -m venv .venv && .venv/bin/pip install -r tests/reference/requirements.txt
    .venv/bin/python tests/reference/make.py            # all of them, into tests/reference/fixtures

For each network of networks.py, exported by Keras, and each of 5 seeded photos, the fixtures hold the class
probabilities and the maps of all classes by `tf.GradientTape`, in four variants:

    conv/probability    as in the origin app: gradient of the softmax probability with respect to the last
                        convolution's raw output
    activation/logit    as in textbooks: gradient of the logit with respect to the activation
    conv/logit, activation/probability

The rest is as in the origin app: mean of the gradient over the map, weighted sum over channels, relu,
division by the maximum if that is above 1e-10 (otherwise 0 everywhere). All is computed in float32, as in the
origin app, except for the saturated network: p(1 - p) of a p near 1 loses all digits in float32, so the tape
uses float64 there.

A second run gives the same maps up to rounding; the models differ in their node names, which Keras numbers.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "keras"))

import keras
import numpy as np
import tensorflow as tf
from export import export
from networks import FINISH, NETWORKS, SIDE, SPREAD, build, in_float64

FIXTURES = Path(__file__).parent / "fixtures"
PHOTOS, SEED = 5, 20240607


def photos(side=SIDE, seed=SEED, count=PHOTOS):
    """Coloured blobs on a gradient: smooth, different in every part, [count, side, side, 3] u8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    drawn = []
    for _ in range(count):
        photo = random.uniform(0, 255, 3) * (x * random.uniform() + y * random.uniform())[..., None]
        for _ in range(6):
            near = ((x - random.uniform()) ** 2 + (y - random.uniform()) ** 2) / 0.02
            photo = photo + np.exp(-near)[..., None] * random.uniform(-255, 255, 3)
        drawn.append(np.clip(photo + random.normal(0, 8, photo.shape), 0, 255))
    return np.round(drawn).astype(np.uint8)


def gradcam(maps, gradient):
    """The origin app's steps from a gradient to a map of 0 to 1."""
    weights = tf.reduce_mean(gradient, axis=(0, 1, 2))
    heat = tf.nn.relu(tf.reduce_sum(maps[0] * weights, axis=-1)).numpy()
    largest = heat.max()
    return heat / largest if largest > 1e-10 else np.zeros_like(heat)


def reference(logits, sigmoid, photo, layers=("target", "map")):
    """Probabilities [classes] and maps {way: [classes, h, w]} of one photo, [side, side, 3] u8.

    `layers` names the last convolution and the activation after it.
    """
    outputs = [*(logits.get_layer(name).output for name in layers), logits.output]
    parts = keras.Model(logits.input, outputs)
    image = tf.constant(photo[None], logits.output.dtype)
    with tf.GradientTape(persistent=True) as tape:
        conv, activation, scores = parts(image, training=False)
        probabilities = tf.sigmoid(scores) if sigmoid else tf.nn.softmax(scores)
        chosen = {
            "probability": [probabilities[:, c] for c in range(scores.shape[1])],
            "logit": [scores[:, c] for c in range(scores.shape[1])],
        }
    maps = {
        f"{target}/{basis}": np.stack([gradcam(value, tape.gradient(s, value)) for s in of_classes])
        for target, value in [("conv", conv), ("activation", activation)]
        for basis, of_classes in chosen.items()
    }
    return probabilities[0].numpy(), maps


def write(name, seed, pictures, folder):
    """Writes one fixture: model.onnx, expected.f32, and expected.json, the index of the latter."""
    model, logits = build(name, seed, pictures)
    folder.mkdir(parents=True, exist_ok=True)
    export(model, str(folder / "model.onnx"))
    sigmoid = FINISH.get(name) == "sigmoid"
    logits = in_float64(name, logits) if name in SPREAD else logits
    every = [reference(logits, sigmoid, photo) for photo in pictures]
    parts = {"probabilities": np.stack([p for p, _ in every])}
    for way in every[0][1]:
        parts[way] = np.stack([maps[way] for _, maps in every])
    entries, at = {}, 0
    for key, values in parts.items():
        entries[key] = {"shape": values.shape, "offset": at}
        at += values.size
    flat = np.concatenate([values.ravel() for values in parts.values()]).astype("<f4")
    (folder / "expected.f32").write_bytes(flat.tobytes())
    (folder / "expected.json").write_text(json.dumps(entries, indent=1) + "\n")
    blank = sum(int((m.max(axis=(1, 2)) == 0).sum()) for _, maps in every for m in maps.values())
    print(f"{name}: {(folder / 'model.onnx').stat().st_size} bytes, {blank} blank maps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="networks to make (all)")
    asked = parser.parse_args()
    drawn = photos()
    FIXTURES.mkdir(exist_ok=True)
    (FIXTURES / "photos.u8").write_bytes(drawn.tobytes())
    for number, network in enumerate(NETWORKS):
        if not asked.names or network in asked.names:
            write(network, SEED + number, drawn, FIXTURES / network)
