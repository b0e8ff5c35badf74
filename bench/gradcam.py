"""Compares Grad-CAM on a full-size EfficientNetV2-S with the origin app's method: maps, pictures, cost.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 -m venv .venv && .venv/bin/pip install -r tests/reference/requirements.txt
    .venv/bin/python bench/gradcam.py make FOLDER       # the model, its maps by tf.GradientTape
    .venv/bin/python bench/gradcam.py check FOLDER      # skincell against them, every engine and class
    .venv/bin/python bench/gradcam.py price FOLDER      # time and memory with Grad-CAM and without
    .venv/bin/python bench/gradcam.py tape FOLDER       # the same for Keras and its tape

The weights are random, the batch norms calibrated on the photos and then jittered, so that each has an
effect. If the original leaves the map of a probability blank because its softmax is saturated, the map of the
logit is expected, as the component shows it. `check` exits with 1 if a map differs by more than 2e-3, or a
picture by more than 2 of 255 on average; `price` if Grad-CAM costs more than 3 % time or 4 MB. Its files are
not kept in the repository. If ORT_DYLIB_PATH names a library, ONNX Runtime is among the engines.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Before this folder, which also has a module `engines`.
sys.path[:0] = [str(ROOT / "tests" / "reference"), str(ROOT / "models" / "keras")]
SIDE, SEED, SPREAD = 300, 20240607, 1.5
TARGETS = ["conv", "activation"]
LABELS = ROOT / "models" / "labels" / "skin.txt"
CLASSES = len(LABELS.read_text().splitlines())
MAP_TOLERANCE, PICTURE_TOLERANCE = 2e-3, 2.0
MOST_TIME, MOST_KB = 1.03, 4096
ALPHA = 0.4


def skincell(*arguments, expect=0):
    """Runs the release binary and returns its output."""
    command = [ROOT / "target" / "release" / "skincell", *map(str, arguments)]
    command[0] = Path(os.environ.get("SKINCELL", command[0]))
    done = subprocess.run(command, capture_output=True, text=True)
    if expect is not None and done.returncode != expect:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


def network(pictures):
    """The network with softmax, and the same without; weights drawn from SEED."""
    import keras
    import numpy as np
    from keras import layers

    keras.utils.set_random_seed(SEED)
    before = keras.applications.EfficientNetV2S(
        weights=None, input_shape=(SIDE, SIDE, 3), classes=CLASSES, classifier_activation=None
    )
    photos = pictures.astype("float32")
    random = np.random.default_rng(SEED)
    norms = [l for l in before.layers if isinstance(l, layers.BatchNormalization)]
    for norm in norms:
        # A block's last batch norm scales its contribution to the shortcut. It is small, as in a trained
        # network; # with blocks of equal weight, rounding errors would grow chaotically.
        size = 0.25 if "project" in norm.name else 1.0
        norm.gamma.assign(size * random.uniform(0.7, 1.4, norm.gamma.shape))
        norm.beta.assign(size * random.normal(0, 0.3, norm.beta.shape))
    calibrate(before, norms, photos)
    for norm in norms:
        channels, spread = norm.gamma.shape, np.sqrt(norm.moving_variance)
        norm.moving_mean.assign(norm.moving_mean + spread * random.normal(0, 0.1, channels))
        norm.moving_variance.assign(norm.moving_variance * random.uniform(0.8, 1.25, channels))
    spread = np.std(before(photos, training=False), axis=1).mean()
    kernel = before.layers[-1].kernel
    kernel.assign(kernel * (SPREAD / spread))
    return keras.Model(before.input, layers.Activation("softmax")(before.output)), before


def calibrate(model, norms, photos):
    """Sets the statistics of batch norms to those of the photos, without dropout."""
    dropouts = [layer for layer in model.layers if hasattr(layer, "rate")]
    rates = [layer.rate for layer in dropouts]
    for layer in dropouts:
        layer.rate = 0.0
    for norm in norms:
        norm.momentum = 0.0
    model(photos, training=True)
    for norm in norms:
        norm.momentum = 0.99
    for layer, rate in zip(dropouts, rates):
        layer.rate = rate


def drawn(photo, heat):
    """The origin app's picture: bilinear to the photo's size, jet, blended with alpha 0.4."""
    import matplotlib
    import numpy as np
    from PIL import Image

    large = Image.fromarray(heat.astype("float32")).resize((SIDE, SIDE), Image.BILINEAR)
    coloured = matplotlib.colormaps["jet"](np.asarray(large))[..., :3] * 255
    blended = photo.astype("float64") * (1 - ALPHA) + coloured * ALPHA
    return np.clip(np.round(blended), 0, 255).astype("uint8")


def make(folder):
    """Writes the model, the photos, and the original method's results."""
    from make import photos, reference

    import numpy as np
    from export import export
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    pictures = photos(SIDE, SEED)
    model, before = network(pictures)
    model.save(folder / "big.keras")
    export(model, str(folder / "big.onnx"))
    answers = {target: {"model": f"big-{target}", "photos": {}} for target in TARGETS}
    blanks = 0
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"photo{index}.png")
        path = folder / f"photo{index}.npy"
        np.save(path, picture[None].astype("float32"))
        layers = ("top_conv", "top_activation")
        probabilities, maps = reference(before, False, picture, layers)
        for target in TARGETS:
            blank = maps[f"{target}/probability"].max(axis=(1, 2), keepdims=True) == 0
            maps[target] = np.where(blank, maps[f"{target}/logit"], maps[f"{target}/probability"])
            blanks += int(blank.sum())
            heat = {str(c): maps[target][c].ravel().tolist() for c in range(CLASSES)}
            answer = {"probabilities": probabilities.tolist(), "heatmaps": heat}
            answers[target]["photos"][str(path)] = answer
        for c in range(CLASSES):
            picture_of = drawn(picture, maps["conv"][c])
            Image.fromarray(picture_of).save(folder / f"photo{index}-class{c}.png")
        shares = " ".join(f"{p:.3f}" for p in probabilities)
        print(f"photo{index}: probabilities {shares}", flush=True)
    for target, kept in answers.items():
        (folder / f"{target}.json").write_text(json.dumps(kept))
    print(f"{folder}: {before.count_params()} parameters, {SIDE}x{SIDE}, {CLASSES} classes; "
          f"{blanks} maps are blank in the original; the logit's are expected there")  # fmt: skip


def app(folder):
    """An application with the prepared models, served by the repository's component."""
    manifest = (ROOT / "spin.toml").read_text()
    wasm = "target/wasm32-wasip2/release/skincell.wasm"
    manifest = manifest.replace(f'"{wasm}"', f'"{ROOT / wasm}"')
    manifest = manifest.replace('["skin", "imagenet"]', '["big-conv"]')
    manifest = manifest.replace('SKINCELL_MODEL = "skin"', 'SKINCELL_MODEL = "big-conv"')
    (folder / "spin.toml").write_text(manifest)


def check(folder):
    """Prepares for both targets, compares maps in every engine, pictures through the component."""
    from engines import ENGINES, differences

    bad = 0
    # Once from the Keras file, as a user would, and once from its export.
    for target, source in zip(TARGETS, ["big.keras", "big.onnx"], strict=True):
        prepared = folder / "models" / f"big-{target}"
        made = skincell("model", "prepare", folder / source, "--labels", LABELS, "-o", prepared,
                        "--cam-target", target, "--force", "--python", sys.executable)  # fmt: skip
        print(made.stdout, made.stderr, sep="", end="")
        tensors = sorted(folder.glob("photo?.npy"))
        done = skincell("model", "check", prepared, *tensors, "--against", folder / f"{target}.json",
                        "--heatmap-tolerance", MAP_TOLERANCE, expect=None)  # fmt: skip
        print(done.stdout, done.stderr, sep="")
        bad += done.returncode
        for engine, (probability, heat) in differences(done.stdout, ENGINES).items():
            print(f"{target}, {engine}: {len(tensors)} photos, {CLASSES} classes: probabilities "
                  f"within {probability:.1e}, maps within {heat:.1e}")  # fmt: skip
    bad += pictures(folder)
    return int(bad > 0)


def pictures(folder):
    """Compares the overlays of every class and photo; returns 1 if one differs too much."""
    import numpy as np
    from PIL import Image

    app(folder)
    photos = sorted(folder.glob("photo?.png"))
    out = folder / "out"
    out.mkdir(exist_ok=True)
    differences = []
    for c in range(CLASSES):
        skincell("classify", *photos, "-o", out, "--class", c, "-f", folder)
        for photo in photos:
            found = sorted(out.glob(f"{photo.stem}*.png"))
            ours = np.asarray(Image.open(found[0]).convert("RGB"), float)
            theirs = np.asarray(Image.open(folder / f"{photo.stem}-class{c}.png"), float)
            differences.append((np.abs(ours - theirs).mean(), np.abs(ours - theirs).max()))
    worst, most = max(d[0] for d in differences), max(d[1] for d in differences)
    print(f"{len(differences)} pictures: mean difference {worst:.3f} of 255 at worst, one pixel {most:.0f}")
    return int(worst > PICTURE_TOLERANCE)


def measured(prepared, photo, engine):
    """The result of `skincell model measure` for one engine, in a separate process."""
    done = skincell("model", "measure", prepared, photo, "--engine", engine, "--rounds", 5, "--inside")
    return json.loads(done.stdout)


def price(folder, rounds):
    """The graph with `cam` compared with the one without, alternating."""
    plain = folder / "models" / "big-plain"
    skincell("model", "prepare", folder / "big.onnx", "--labels", LABELS, "-o", plain,
             "--cam-target", "none", "--force")  # fmt: skip
    photo, bad = folder / "photo0.npy", 0
    engines = [e for e, file in [("cellnet", "model.cell"), ("rten", "model.onnx")]
               if (plain / file).exists()]  # fmt: skip
    engines += ["onnxruntime"] if "ORT_DYLIB_PATH" in os.environ else []
    for engine in engines:
        turns = [
            [measured(folder / "models" / f"big-{kind}", photo, engine) for kind in ("plain", "conv")]
            for _ in range(rounds)
        ]
        ratio = statistics.median(c["fastest_ms"] / p["fastest_ms"] for p, c in turns)
        more = statistics.median(c["peak_kb"] - p["peak_kb"] for p, c in turns)
        private = statistics.median(c["private_kb"] - p["private_kb"] for p, c in turns)
        times = [statistics.median(t[i]["fastest_ms"] for t in turns) for i in (0, 1)]
        print(f"{engine}: {times[0]:.1f} -> {times[1]:.1f} ms, x{ratio:.4f}; "
              f"peak {more / 1024:+.2f} MiB, private {private / 1024:+.2f} MiB")  # fmt: skip
        bad |= ratio > MOST_TIME or more > MOST_KB
    return int(bad)


def memory(name):
    """A line of /proc/self/status, in MiB."""
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) for l in status if l.startswith(name + ":")) / 1024


def tape(folder, rounds):
    """Keras with and without the tape, as the origin app calls it; memory by the process's peak."""
    import keras
    import numpy as np
    import tensorflow as tf

    model = keras.models.load_model(folder / "big.keras")
    parts = keras.Model(model.input, [model.get_layer("top_conv").output, model.output])
    image = np.load(folder / "photo0.npy")

    def predict():
        return model.predict(image, verbose=0)

    def gradcam():
        with tf.GradientTape() as recorder:
            conv, scores = parts(image)
            best = scores[:, int(tf.argmax(scores[0]))]
        return recorder.gradient(best, conv)

    peaks = []
    for name, run in [("predict", predict), ("tape", lambda: (predict(), gradcam()))]:
        run()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e3)
        peaks.append(memory("VmHWM"))
        print(f"keras, {name}: {statistics.median(times):.0f} ms, peak {peaks[-1]:.0f} MiB", flush=True)
    print(f"the tape: {peaks[1] - peaks[0]:+.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["make", "check", "price", "tape"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if asked.what in ("price", "tape"):
        return {"price": price, "tape": tape}[asked.what](folder, asked.rounds)
    return {"make": make, "check": check}[asked.what](folder)


if __name__ == "__main__":
    sys.exit(main())
