"""Compares the service with the preprocessing pipelines of frameworks, on models that use their conventions.

    SKINCELL_BIN=target/release/skincell python tests/reference/pipelines.py torch     # with torchvision
    SKINCELL_BIN=target/release/skincell python tests/reference/pipelines.py keras     # with models/keras/requirements.txt

Names after it choose among the conventions.

For each convention a small seeded network is exported, whose last layer spreads the photos of `tests/photos`
over seven classes. `model prepare --preprocess NAME` prepares it, and `model check` runs every photo like a
request. Prints, per convention, the number of photos with the same likeliest class as in the framework's own
pipeline, and the largest difference of a probability in percentage points. Exits with 1 if a class differs,
or a probability by more than one point.
"""

import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

ROOT = Path(__file__).parents[2]
PHOTOS = sorted(p for p in (ROOT / "tests/photos").iterdir() if p.suffix in {".jpg", ".png", ".webp", ".bmp", ".gif"})
SIDE, CLASSES, CHANNELS = 96, 7, 24
CONVENTIONS = {"torch": ["torch", "timm", "ultralytics", "custom-vision"], "keras": ["keras", "tf", "caffe", "teachable-machine"]}


def opened(path):
    """The photo upright and in sRGB, converted from the file's profile if there is one, as in the service."""
    photo = ImageOps.exif_transpose(Image.open(path))
    profile = photo.info.get("icc_profile")
    if profile is None or photo.mode != "RGB":
        return photo.convert("RGB")
    return ImageCms.profileToProfile(photo, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"))


def head(features):
    """A dense layer whose scores differ clearly between the photos, from their features [photos, channels].

    Seeds are tried until every photo's likeliest class leads by at least 1 point: with a smaller lead the
    last digit of a pixel would decide which class is first.
    """
    for seed in itertools.count(5):
        random = np.random.default_rng(seed)
        weights = random.normal(size=(features.shape[1], CLASSES)) / features.std(0)[:, None] / np.sqrt(features.shape[1])
        weights, bias = 3 * weights, -3 * features.mean(0) @ weights
        powers = np.exp(features @ weights + bias)
        ranked = np.sort(powers / powers.sum(1, keepdims=True))
        if (ranked[:, -1] - ranked[:, -2]).min() >= 0.01:
            return weights.astype("float32"), bias.astype("float32")


def torch_tensor(name, photo):
    """The photo's tensor, made by the convention's own library."""
    from torchvision import transforms as t

    norm = t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mode = t.InterpolationMode
    if name == "torch":
        return t.Compose([t.Resize(int(SIDE / 0.875), mode.BILINEAR), t.CenterCrop(SIDE), t.ToTensor(), norm])(photo)
    if name == "timm":
        return t.Compose([t.Resize(int(SIDE / 0.875), mode.BICUBIC), t.CenterCrop(SIDE), t.ToTensor(), norm])(photo)
    if name == "ultralytics":
        return t.Compose([t.Resize(SIDE, mode.BILINEAR), t.CenterCrop(SIDE), t.ToTensor()])(photo)
    pixels = np.asarray(photo.resize((SIDE, SIDE), Image.BICUBIC), "float32")
    return t.functional.to_tensor(pixels)[[2, 1, 0]]


def torch_model(name, folder):
    import torch
    from torch import nn

    torch.manual_seed(3)
    convolutions = [(3, 8), (8, 16), (16, CHANNELS)]
    layers = [m for a, b in convolutions for m in (nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES))
    photos = torch.stack([torch_tensor(name, opened(path)) for path in PHOTOS])
    with torch.no_grad():
        for _ in range(100):
            net[:-1](photos)  # the batch norms see the photos
        net.eval()
        weights, bias = head(net[:-1](photos).numpy())
        net[-1].weight.copy_(torch.tensor(weights.T))
        net[-1].bias.copy_(torch.tensor(bias))
        right = net(photos).softmax(1).numpy()
    file = folder / "net.onnx"
    torch.onnx.export(net, (photos[:1],), str(file), input_names=["image"], output_names=["scores"], dynamo=False)
    return file, right


def keras_model(name, folder):
    import keras
    import tensorflow as tf
    from keras import layers
    from keras.src.applications.imagenet_utils import preprocess_input

    keras.utils.set_random_seed(3)
    if name == "teachable-machine":
        # The code that Teachable Machine's site shows for a Keras export.
        fitted = [ImageOps.fit(opened(p), (SIDE, SIDE), Image.Resampling.LANCZOS) for p in PHOTOS]
        photos = np.stack([np.asarray(photo, "float32") / 127.5 - 1 for photo in fitted])
    else:
        photos = np.stack([tf.image.resize(np.asarray(opened(p)), (SIDE, SIDE)).numpy() for p in PHOTOS])
    if name in ("tf", "caffe"):
        photos = preprocess_input(photos, mode=name)
    stack = [keras.Input((SIDE, SIDE, 3))] + ([layers.Rescaling(1 / 127.5, -1)] if name == "keras" else [])
    for channels in (8, 16, CHANNELS):
        stack += [layers.Conv2D(channels, 3, 2, "same", use_bias=False), layers.BatchNormalization(momentum=0.5),
                  layers.ReLU()]
    body = keras.Sequential([*stack, layers.GlobalAveragePooling2D()])
    for _ in range(30):
        body(photos, training=True)
    dense = layers.Dense(CLASSES, activation="softmax")
    model = keras.Sequential([body, dense])
    model(photos[:1])
    dense.set_weights(list(head(body.predict(photos, verbose=0))))
    file = folder / "net.keras"
    model.save(file)
    return file, model.predict(photos, verbose=0)


def compare(library, name):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file, right = {"torch": torch_model, "keras": keras_model}[library](name, folder)
        tool, kept = os.environ["SKINCELL_BIN"], folder / "kept.json"
        labels = ",".join(f"class {i}" for i in range(CLASSES))
        subprocess.run([tool, "model", "prepare", file, "--labels", labels, "-o", folder / "net", "--preprocess", name,
                        "--python", sys.executable], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([tool, "model", "check", folder / "net", *PHOTOS, "--keep", kept], check=True,
                       stdout=subprocess.DEVNULL)
        answers = json.loads(kept.read_text())["photos"]
    found = np.array([answers[str(path)]["probabilities"] for path in PHOTOS])
    same = int((found.argmax(1) == right.argmax(1)).sum())
    worst = float(abs(found - right).max() * 100)
    at = PHOTOS[int(abs(found - right).max(1).argmax())].name
    print(f"{name:18} {same} of {len(PHOTOS)} photos the same class, probabilities within {worst:.2f} points ({at})")
    return same == len(PHOTOS) and worst <= 1


if __name__ == "__main__":
    wanted = sys.argv[2:] or CONVENTIONS[sys.argv[1]]
    sys.exit(0 if all([compare(sys.argv[1], name) for name in wanted]) else 1)
