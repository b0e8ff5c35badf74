"""Which usual networks `skincell model prepare` takes, as Keras and timm export them: docs/models.md.

    .venv/bin/python tests/reference/zoo.py keras FOLDER     # with models/keras/requirements.txt
    .venv/bin/python tests/reference/zoo.py timm FOLDER      # with models/torch/requirements.txt
    python3 tests/reference/zoo.py table FOLDER              # prepares each, prints the table

Random weights, 7 classes: what is looked at is the structure, which differs from exporter to
exporter. `table` needs nothing but the binary, target/release/skincell or $SKINCELL.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LABELS = ROOT / "models" / "labels" / "skin.txt"
CLASSES = len(LABELS.read_text().splitlines())
KERAS = ["ResNet50", "MobileNetV2", "DenseNet121", "ConvNeXtTiny", "EfficientNetB0", "EfficientNetV2S"]
TIMM = ["resnet50", "mobilenetv2_100", "densenet121", "convnext_tiny", "efficientnet_b0",
        "tf_efficientnetv2_s"]  # fmt: skip
TARGETS = ["conv", "activation"]


def export_keras(folder, names):
    """One file for each network of KERAS, by models/keras/export.py."""
    sys.path.insert(0, str(ROOT / "models" / "keras"))
    import keras
    from export import export

    for name in names or KERAS:
        path = folder / f"{name}.keras.onnx"
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        make = getattr(keras.applications, name)
        model = make(weights=None, input_shape=(224, 224, 3), classes=CLASSES)
        try:
            export(model, str(path))
        except SystemExit as refusal:
            path.with_suffix(".refused").write_text(str(refusal))
        print(name, flush=True)


def export_timm(folder, names):
    """Two files for each network of TIMM, one by each of PyTorch's exporters."""
    sys.path.insert(0, str(ROOT / "models" / "torch"))
    import torch
    from export import export, load

    for name in names or TIMM:
        for exporter in ["dynamo", "script"]:
            torch.manual_seed(1)
            path = folder / f"{name}.timm-{exporter}.onnx"
            export(load(f"timm:{name}", classes=CLASSES), str(path), (224, 224), exporter=exporter)
            print(name, exporter, flush=True)


def prepared(model, target):
    """The card of a model prepared for a target, and whether it was packed; or the error."""
    binary = os.environ.get("SKINCELL", ROOT / "target" / "release" / "skincell")
    out = model.parent / "prepared" / f"{model.stem.lower()}-{target}"
    command = [binary, "model", "prepare", model, "--labels", LABELS, "-o", out, "--force",
               "--cam-target", target]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stderr.strip()
    lines = [line for line in done.stderr.splitlines() if "stays with rten" in line]
    stays = lines[0].split("rten: ")[-1].removesuffix("; use another engine for this model") if lines else ""
    return json.loads((out / "card.json").read_text()), stays


def table(folder, _):
    """A row for each exported file, in Markdown."""
    print("| network | exported by | Grad-CAM of the convolution | of the activation | cellnet packs the first |")
    print("|---|---|---|---|---|")
    files = [*folder.glob("*.onnx"), *folder.glob("*.refused")]
    for model in sorted(files, key=lambda m: m.name.lower()):
        name, exporter = model.stem.split(".")
        if model.suffix == ".refused":
            print(f"| {name} | {exporter} | **refused**: {model.read_text()} | | |", flush=True)
            continue
        cells, packed = [], []
        for target in TARGETS:
            card, rest = prepared(model, target)
            packed.append(rest or "yes")
            if card is None:
                cells.append(f"**refused**: {rest}")
            elif card["gradcam"]:
                cells.append(f"{card['gradcam']['width']}×{card['gradcam']['height']}")
            else:
                cells.append(f"none: {card['gradcam_missing']}")
        cells.append(packed[0])
        print(f"| {name} | {exporter} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["keras", "timm", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="networks to export (all)")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    {"keras": export_keras, "timm": export_timm, "table": table}[asked.what](asked.folder, asked.names)
