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
import re
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
            net, _ = load(f"timm:{name}", classes=CLASSES)
            export(net, str(path), [[1, 3, 224, 224]], exporter=exporter)
            print(name, exporter, flush=True)


def prepared(model, target):
    """How a model prepared for a target gets its heatmap, and whether cellnet packs it, in words."""
    binary = os.environ.get("SKINCELL", ROOT / "target" / "release" / "skincell")
    out = model.parent / "prepared" / f"{model.stem.lower()}-{target}"
    command = [binary, "model", "prepare", model, "--labels", LABELS, "-o", out, "--force",
               "--cam-target", target]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return f"**refused**: {done.stderr.strip()}", ""
    card = json.loads((out / "card.json").read_text())
    # What is in the way begins with its operator: `LayerNormalization "node 7": there is no rule …`
    cam, missing = card["gradcam"], card["gradcam_missing"] or ""
    heat = f"{cam['width']}×{cam['height']}" if cam else f"none: no rule for {missing.split()[0]}"
    unpacked = re.search(r"operator (\w+) .*cannot be packed", done.stderr)
    packed = "yes" if "is packed" in done.stderr else f"no: {unpacked[1]}" if unpacked else done.stderr
    return heat, packed


def table(folder, _):
    """A row for each network and exporter, in Markdown; exporters that come to the same share one."""
    rows = {}
    for model in [*folder.glob("*.onnx"), *folder.glob("*.refused")]:
        name, exporter = model.stem.split(".")
        if model.suffix == ".refused":
            cells = (f"**refused**: {model.read_text().strip()}", "", "")
        else:
            found = [prepared(model, target) for target in TARGETS]
            cells = (*(heat for heat, _ in found), found[0][1])
        rows.setdefault((name, cells), []).append(exporter)
    print("| network | exported by | Grad-CAM, convolution | Grad-CAM, activation | cellnet |")
    print("|---|---|---|---|---|")
    plain = {name: name.lower().removeprefix("tf_").replace("_", "") for name, _ in rows}
    for (name, cells), exporters in sorted(rows.items(), key=lambda row: (plain[row[0][0]], row[1])):
        print(f"| {name} | {', '.join(sorted(exporters))} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["keras", "timm", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="networks to export (all)")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    {"keras": export_keras, "timm": export_timm, "table": table}[asked.what](asked.folder, asked.names)
