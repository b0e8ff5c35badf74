"""Nets of torchvision, timm and transformers with seeded weights, and PyTorch's own results for them."""

import copy

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from zoo_nets.look import Net, Seen, Tensor
from zoo_nets.nets import TIMM, TORCHVISION, TRANSFORMERS
from zoo_nets.served import CLASSES, photos

# In units of 0 to 255.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
FLAGS = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]


def from_torchvision(name, side):
    import torchvision

    given = {"image_size": side} if name.startswith("vit") else {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **given)


def from_timm(name, side):
    import timm

    timm.layers.set_fused_attn(False)
    sized = {"img_size": side} if name.startswith(("vit", "deit", "swin")) else {}
    return timm.create_model(name, num_classes=CLASSES, exportable=True, **sized)


def from_transformers(name, side):
    """An architecture of transformers at a small size."""
    import transformers

    small = {
        "ViT": dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, patch_size=8),
        "DeiT": dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, patch_size=8),
        "Beit": dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, patch_size=8),
        "Dinov2": dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, patch_size=14),
        "Swin": dict(embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4, patch_size=4),
        "ConvNext": dict(hidden_sizes=[24, 48], depths=[1, 1], num_stages=2),
        "ConvNextV2": dict(hidden_sizes=[24, 48], depths=[1, 1], num_stages=2),
        "ResNet": dict(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1]),
        "RegNet": dict(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], groups_width=16),
        "PoolFormer": dict(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
        "MobileViT": dict(neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 96], hidden_sizes=[32, 40, 48]),
        "EfficientNet": dict(width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640),
    }.get(name, {})
    config = getattr(transformers, f"{name}Config")(image_size=side, num_labels=CLASSES, **small)
    config._attn_implementation = "eager"
    net = getattr(transformers, f"{name}ForImageClassification")(config)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, image):
            return self.net(image).logits

    return Logits()


def tensor(photo):
    """The nets' input tensor of a photo, float64 [1, 3, height, width]."""
    return torch.from_numpy(((photo.astype("float64") - MEAN) / STD).transpose(2, 0, 1)[None].copy())


def stirred(net, side, seed=1):
    """Gives the net statistics and weights as after training, so that classes and maps differ between
    photos."""
    random = torch.Generator().manual_seed(seed)
    uniform = lambda shape, low, high: torch.rand(shape, generator=random) * (high - low) + low
    pictures = torch.cat([tensor(photo) for photo in photos(side, side)]).float()
    # Inverted photos as well, so that no channel's statistics are those of three photos alone.
    inverted = torch.cat([tensor(255 - photo) for photo in photos(side, side)]).float()
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
            module.weight.data = module.weight.data.clamp(min=0.2) * uniform(module.weight.shape, 0.7, 1.3)
            module.bias.data = module.bias.data + uniform(module.bias.shape, -0.3, 0.3)
    if norms:
        net.train()
        for module in net.modules():
            if isinstance(module, (nn.Dropout, nn.Dropout2d)) or "drop" in type(module).__name__.lower():
                module.eval()
        with torch.no_grad():
            for _ in range(20):
                net(torch.cat([pictures, inverted]))
    net.eval()
    # Scales the scores so that no class is certain and every class has a gradient.
    last = [m for m in net.modules() if getattr(m, "out_features", getattr(m, "out_channels", None)) == CLASSES][-1]
    with torch.no_grad():
        if not last.weight.any():  # of a net whose last layer begins at 0
            last.weight.copy_(uniform(last.weight.shape, -0.1, 0.1))
        logits = net(pictures)
        spread = (logits - logits.mean(0)).std()
        # A larger factor would make float32's rounding visible.
        last.weight.data *= float((1 / spread).clamp(0.1, 10))
        if last.bias is not None:
            last.bias.data = -net(pictures).mean(0) + last.bias.data + uniform(last.bias.shape, -0.5, 0.5)
    return net


class Kept(TorchFunctionMode):
    """Keeps every map and every sequence of tokens that a forward pass computes."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, torch.Tensor) and one.requires_grad and one.dim() in (3, 4) and id(one) not in self.found:
                self.found[id(one)] = (getattr(function, "__name__", ""), one)
        return made


def reference(net, finish=None):
    """PyTorch's own results in float64; `finish` makes probabilities of the net's answer, by default softmax."""
    net = copy.deepcopy(net).double().eval()

    def look(photo):
        kept = Kept()
        with kept:
            answer = net(tensor(photo).requires_grad_())
        probabilities = (answer.softmax(1) if finish is None else finish(answer))[0]
        made = [Tensor(name, one.detach().numpy(), one) for name, one in kept.found.values()]

        def gradient(index, handle):
            (found,) = torch.autograd.grad(probabilities[index], handle, retain_graph=True, allow_unused=True)
            return np.zeros(handle.shape) if found is None else found.numpy()

        return Seen(probabilities.detach().numpy(), made, gradient)

    return look


def written(net, side, exporter, folder, opset=None):
    """Writes the net for `model prepare`; returns the file."""
    example = torch.zeros(1, 3, side, side)
    if exporter == ".pt2":
        torch.export.save(torch.export.export(net, (example,)), folder / "net.pt2")
        return folder / "net.pt2"
    if exporter == ".pt":
        with torch.no_grad():
            torch.jit.trace(net, example).save(folder / "net.pt")
        return folder / "net.pt"
    file = folder / "net.onnx"
    with torch.no_grad():
        torch.onnx.export(net, (example,), str(file), input_names=["image"], output_names=["scores"],
                          dynamo=exporter == "dynamo", opset_version=opset or (18 if exporter == "dynamo" else 17))
    return file


def make(source, name, folder):
    import sys

    nets, maker = {"torchvision": (TORCHVISION, from_torchvision), "timm": (TIMM, from_timm),
                   "transformers": (TRANSFORMERS, from_transformers)}[source]
    side, exporter = nets[name]
    torch.manual_seed(1)
    torch.set_num_threads(1)
    net = stirred(maker(name, side), side)
    look = reference(net)
    file = written(net, side, exporter, folder)
    flags = [*FLAGS, "--python", sys.executable]
    if exporter == ".pt":
        flags += ["--size", f"{side}x{side}"]
    single = lambda photo: net(tensor(photo).float()).softmax(1)[0].detach().numpy()
    return Net(file, flags, (side, side), look, exported=exporter, single=single)
