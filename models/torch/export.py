"""Exports a PyTorch classifier to ONNX: a timm name, a `.pt2` or a TorchScript `.pt` in, one file out.

    python3 -m venv .venv && .venv/bin/pip install -r models/torch/requirements.txt
    .venv/bin/python models/torch/export.py timm:resnet50 raw.onnx --weights mine.pth --classes 7
    skincell model prepare raw.onnx --labels labels.txt -o models/skin \\
        --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375

Either of PyTorch's exporters does the work, always in evaluation mode, for one photo, with the names
`image` and `scores`; the versions used are recorded. A state dict is loaded with `weights_only`, so
that a downloaded file runs no code. Makes no Grad-CAM: `prepare` does.
"""

import argparse

import onnx
import torch

OPSET = 18


def load(name, weights=None, classes=None):
    """A model in evaluation mode, with its weights."""
    if name.startswith("timm:"):
        import timm

        sizes = {} if classes is None else {"num_classes": classes}
        model = timm.create_model(name.removeprefix("timm:"), **sizes)
        if weights is not None:
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return model.eval()
    if name.endswith(".pt2"):
        return torch.export.load(name).module()
    return torch.jit.load(name, map_location="cpu").eval()


def export(model, path, size, opset=OPSET, exporter="dynamo"):
    """Writes `model` to `path`; `size` is (height, width), `exporter` "dynamo" or "script"."""
    photo = torch.zeros(1, 3, *size)
    new = exporter == "dynamo" and not isinstance(model, torch.jit.ScriptModule)
    with torch.no_grad():
        torch.onnx.export(
            model,
            (photo,),
            path,
            opset_version=opset,
            input_names=["image"],
            output_names=["scores"],
            dynamo=new,
            external_data=False,
        )
    exported = onnx.load(path)
    versions = {"opset": opset, "torch": torch.__version__, "exporter": exporter}
    onnx.helper.set_model_props(exported, {k: str(v) for k, v in versions.items()})
    onnx.save(exported, path)
    return exported


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="timm:NAME, a .pt2 program or a TorchScript .pt file")
    parser.add_argument("onnx")
    parser.add_argument("--weights", help="a state dict for a timm model")
    parser.add_argument("--classes", type=int)
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--opset", type=int, default=OPSET)
    parser.add_argument("--exporter", choices=["dynamo", "script"], default="dynamo")
    asked = parser.parse_args()
    net = load(asked.model, asked.weights, asked.classes)
    made = export(net, asked.onnx, asked.size, asked.opset, asked.exporter)
    print(f"{asked.onnx}: {len(made.graph.node)} nodes, opset {asked.opset}, image -> scores")
