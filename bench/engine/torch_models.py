"""Writes ONNX classifiers of published definitions in torchvision and timm, for measuring engines.

    python torch_models.py OUT_FOLDER [NAME ...]      such as convnext-tiny, mobilevit-xs, vit-tiny, ghostnet

Nothing is downloaded: weights are random from a seed. Batch norms get the statistics of seeded pictures, ConvNeXt's
layer scales (1e-6 at the beginning of training, which would switch the blocks off) trained sizes, and the head a
size that makes some classes likelier than others. PyTorch exports the graphs as it does by default. Needs torch,
torchvision, timm, onnx and onnxscript.
"""

import sys
import warnings
from pathlib import Path

import timm
import torch
import torchvision

MODELS = {
    "convnext-tiny": (lambda: torchvision.models.convnext_tiny(weights=None), 224),
    "mobilevit-xs": (lambda: timm.create_model("mobilevit_xs", pretrained=False), 256),
    "vit-tiny": (lambda: timm.create_model("vit_tiny_patch16_224", pretrained=False), 224),
    "ghostnet": (lambda: timm.create_model("ghostnet_100", pretrained=False), 224),
}


class Classifier(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pictures):
        logits = self.network(pictures)
        return logits, logits.softmax(-1)


def pictures(count, side):
    """Smooth noise: coarse colours, with finer ones over them."""
    sizes = [(4, 1.0), (16, 0.5), (side, 0.2)]
    layers = [share * torch.nn.functional.interpolate(torch.randn(count, 3, size, size), side, mode="bilinear")
              for size, share in sizes]
    return sum(layers)


def settle(network, inputs):
    """Gives batch norms the statistics of the inputs, and layer scales and the head sizes as after training."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1.0, 0.1)
            torch.nn.init.normal_(module.bias, 0.0, 0.1)
        scale = getattr(module, "layer_scale", None)
        if isinstance(scale, torch.nn.Parameter):
            torch.nn.init.uniform_(scale, 0.05, 0.5)
    with torch.no_grad():
        network.train()
        network(inputs)
        network.eval()
        head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
        head.weight *= 3.0 / network(inputs).std()


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    for name in sys.argv[2:] or MODELS:
        torch.manual_seed(7)
        build, side = MODELS[name]
        network = build()
        settle(network, pictures(8, side))
        path = folder / f"{name}.onnx"
        torch.onnx.export(Classifier(network).eval(), (pictures(1, side),), path, input_names=["input"],
                          output_names=["logits", "probabilities"], opset_version=18, external_data=False,
                          verbose=False)
        print(f"{name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
