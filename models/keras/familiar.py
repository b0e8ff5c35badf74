"""Shows familiarity on a Keras model of full size, from `.keras` to answers, with nothing but this repository.

    python3 -m venv .venv && .venv/bin/pip install -r models/keras/requirements.txt
    SKINCELL_PYTHON=.venv/bin/python .venv/bin/python models/keras/familiar.py [--skincell "cargo run --release --"]

Draws two sets of pictures, leaves and cells seen through a microscope; trains the head of an EfficientNetV2-S on
them, whose other weights are random from a seed; saves it as `.keras`; prepares it with
`skincell model prepare --photos`; and classifies further drawings, and pictures of other kinds, as the service does.
Prints the share right, the share familiar and the area under the ROC curve, and exits with 1 below
0.98, or if `prepare` finds that these photos do not allow a familiarity. The pictures in the last test are not used to
fit anything. How good such a network's classes are is left out: its features were never trained.

Random weights make features that separate only if what a layer sees still depends on the picture more than on the
blocks before it. So the last batch norm of each residual branch starts at a fifth, as networks that are trained from
nothing start there at 0 (Goyal et al. 2017, arXiv:1706.02677, 5.1), and all batch norms have the statistics of pictures.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"})

import numpy  # noqa: E402
from PIL import Image, ImageDraw, ImageFilter  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIDE, LABELS, AUROC = 224, ["cells", "leaf"], 0.98
TRAINED, FITTED, TRIED = 60, 80, 60  # pictures of each class
BRANCH = 0.2  # scale of the last batch norm of each residual branch
PASSES = 3  # parts of the pictures, whose statistics are averaged


def leaf(rng):
    """One leaf with its veins on soil."""
    soil = rng.integers(70, 110)
    image = Image.new("RGB", (SIDE * 2, SIDE * 2), (int(soil), int(soil * 0.75), int(soil * 0.5)))
    pen = ImageDraw.Draw(image)
    green = tuple(int(v) for v in (rng.integers(30, 90), rng.integers(120, 180), rng.integers(20, 70)))
    width, height = rng.integers(90, 150), rng.integers(160, 210)
    middle = SIDE
    turn = rng.uniform(0, 360)
    t = numpy.linspace(0, numpy.pi, 60)
    x, y = width * numpy.sin(t) ** 1.4, -height * numpy.cos(t)
    outline = [(middle + a, middle + b) for a, b in zip(x, y)] + [(middle - a, middle + b) for a, b in zip(x[::-1], y[::-1])]
    pen.polygon(outline, fill=green)
    vein = tuple(int(v * 0.65) for v in green)
    pen.line([(middle, middle - height), (middle, middle + height)], fill=vein, width=5)
    for step in numpy.linspace(-0.7, 0.7, int(rng.integers(6, 10))):
        for side in (-1, 1):
            pen.line([(middle, middle + step * height), (middle + side * width * 0.7, middle + step * height - 30)], fill=vein, width=3)
    return image.rotate(turn, fillcolor=image.getpixel((0, 0)))


def cells(rng):
    """Round cells with nuclei, stained, on a light ground."""
    image = Image.new("RGB", (SIDE * 2, SIDE * 2), tuple(int(v) for v in rng.integers(225, 245, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(18, 40))):
        x, y = rng.uniform(0, SIDE * 2, 2)
        radius = rng.uniform(22, 42)
        pink = tuple(int(v) for v in (rng.integers(205, 235), rng.integers(140, 180), rng.integers(185, 215)))
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=pink, outline=(180, 110, 160), width=3)
        core = radius * rng.uniform(0.3, 0.5)
        x, y = x + rng.normal(0, 4), y + rng.normal(0, 4)
        pen.ellipse([x - core, y - core, x + core, y + core], fill=(int(rng.integers(80, 120)), 50, 140))
    return image


def other(rng):
    """A picture of neither kind: a field, noise, stripes, tiles, writing or discs."""
    colour = lambda: tuple(int(v) for v in rng.integers(0, 256, 3))  # noqa: E731
    image = Image.new("RGB", (SIDE * 2, SIDE * 2), colour())
    pen, kind, step = ImageDraw.Draw(image), int(rng.integers(6)), int(rng.integers(12, 60))
    places = range(0, SIDE * 2, step)
    if kind == 1:
        noise = rng.integers(0, 256, (SIDE * 2 // (step // 4), SIDE * 2 // (step // 4), 3), numpy.uint8)
        return Image.fromarray(noise).resize(image.size, Image.Resampling.NEAREST)
    if kind == 2:
        for x in places[::2]:
            pen.rectangle([x, 0, x + step, SIDE * 2], fill=colour())
    if kind == 3:
        for x in places:
            for y in places:
                pen.rectangle([x, y, x + step, y + step], fill=colour())
    if kind == 4:
        for y in places:
            pen.text((10, y), "the quick brown fox jumps over the lazy dog " * 2, fill=colour())
    if kind == 5:
        for _ in range(8):
            x, y, radius = rng.uniform(0, SIDE * 2, 2).tolist() + [rng.uniform(20, 120)]
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour())
    return image


def seen(image, rng):
    """The drawing as a camera takes it: a little blur and noise."""
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    noisy = numpy.asarray(image) + rng.normal(0, 3, (SIDE, SIDE, 3))
    return numpy.clip(noisy, 0, 255).astype(numpy.uint8)


def save(folder, draw, seeds):
    folder.mkdir(parents=True)
    for seed in seeds:
        rng = numpy.random.default_rng(seed)
        Image.fromarray(seen(draw(rng), rng)).save(folder / f"{seed}.png")


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def settle(keras, network, pictures):
    """Weakens the residual branches, and gives all batch norms the mean statistics of parts of the pictures."""
    names = {layer.name for layer in network.layers}
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # the statistics are those without it
        if layer.name.endswith("project_bn") and layer.name.replace("project_bn", "add") in names:
            layer.gamma.assign(numpy.full(layer.gamma.shape, BRANCH, numpy.float32))
    for turn in range(PASSES):
        for norm in norms:
            norm.momentum = turn / (turn + 1)
        network(pictures[turn::PASSES], training=True)


def train(path):
    """Saves an EfficientNetV2-S whose dense layer tells the two classes apart; the rest keeps its random weights."""
    import keras

    keras.utils.set_random_seed(7)
    base = keras.applications.EfficientNetV2S(weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3))
    pictures, classes = [], []
    for index, draw in enumerate((cells, leaf)):
        for seed in range(TRAINED):
            rng = numpy.random.default_rng(seed)
            pictures.append(seen(draw(rng), rng))
            classes.append(index)
    pictures = numpy.array(pictures, numpy.float32)
    say(f"drew {len(pictures)} pictures to train with")
    settle(keras, base, pictures)
    say("the batch norms have the statistics of pictures")
    features = base.predict(pictures, batch_size=8, verbose=0)
    base.trainable = False
    head = keras.Sequential([keras.Input(features.shape[1:]), keras.layers.Dense(2, activation="softmax")])
    head.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    head.fit(features, numpy.array(classes), epochs=40, batch_size=16, verbose=0)
    keras.Model(base.input, head.layers[-1](base.output)).save(path)


def auroc(known, foreign):
    known = numpy.sort(known)
    below = numpy.searchsorted(known, foreign, "left") + numpy.searchsorted(known, foreign, "right")
    return float(below.mean() / 2 / len(known))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skincell", default="cargo run --quiet --release --", help="the command that runs skincell")
    options = parser.parse_args()

    def skincell(*words):
        done = subprocess.run([*shlex.split(options.skincell), *map(str, words)], cwd=ROOT, text=True, stdout=subprocess.PIPE)
        if done.returncode:
            sys.exit(done.stdout)
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for name, draw in zip(LABELS, (cells, leaf)):
            save(work / "photos" / name, draw, range(1000, 1000 + FITTED))
            save(work / "tried" / name, draw, range(2000, 2000 + TRIED))
        save(work / "tried" / "other", other, range(3000, 3000 + 2 * TRIED))
        train(work / "two.keras")
        say("trained the head")
        began = time.monotonic()
        print(skincell("model", "prepare", work / "two.keras", "--labels", ",".join(LABELS), "-o", work / "models/two",
                       "--photos", work / "photos", "--basis", "drawn leaves and cells"))
        print(f"prepared with one command in {time.monotonic() - began:.0f} s", flush=True)
        manifest = (ROOT / "spin.toml").read_text().replace('"target/', f'"{ROOT}/target/')
        manifest = manifest.replace('["skin", "imagenet"]', '["two"]').replace('SKINCELL_MODEL = "skin"', 'SKINCELL_MODEL = "two"')
        (work / "spin.toml").write_text(manifest)
        lines = skincell("classify", work / "tried", "--json", "--from", work / "spin.toml").splitlines()
        scores, right = {name: [] for name in (*LABELS, "other")}, 0
        for answer in map(json.loads, lines):
            name = pathlib.Path(answer["photo"]).parent.name
            if "familiarity" not in answer:
                sys.exit("familiarity is not available")
            scores[name].append(answer["familiarity"]["score"])
            right += answer["results"][0]["class"] == name
        known = numpy.array(scores["cells"] + scores["leaf"])
        foreign = numpy.array(scores["other"])
        found = auroc(known, foreign)
        print(f"right {right / len(known):.1%}, familiar {(known <= 1).mean():.1%} of {len(known)} further drawings; unfamiliar "
              f"{(foreign > 1).mean():.1%} of {len(foreign)} pictures of other kinds; area under the ROC curve {found:.4f}")
        sys.exit(0 if found >= AUROC else f"below {AUROC}")


if __name__ == "__main__":
    main()
