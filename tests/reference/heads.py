"""Makes the fixtures of every kind of head: small PyTorch nets, and maps by autograd in float64.

    /path/to/venv/bin/python tests/reference/heads.py      # torch, onnx; writes tests/reference/heads

Each net takes a photo [1, 3, 32, 32] of fixtures/photos.u8, (pixel - 127.5) / 127.5, and has 4 classes. The
fixtures hold, for the first 3 photos, the probabilities, and for every class the map of the gradient of its
probability with respect to "act" (the head's input) and to "conv" (the last convolution's raw output), as in
make.py. Batch norms get random statistics. Some channels are zero everywhere, so that maxima are ties.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).parent
OUT = HERE / "heads"
SIDE, CLASSES, CHANNELS, PHOTOS = 32, 4, 12, 3


class Body(nn.Module):
    """Three convolutions to a map of 8 x 8; with ReLU two of its channels are zero everywhere."""

    def __init__(self, act, bias):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.conv = nn.Conv2d(8, CHANNELS, 3, 1, 1, bias=bias)
        self.norm = nn.Identity() if bias else nn.BatchNorm2d(CHANNELS)
        self.act = act()

    def forward(self, x):
        return self.act(self.norm(self.conv(self.stem(x))))


class Net(nn.Module):
    def __init__(self, head, *parts, act=nn.ReLU, bias=False):
        super().__init__()
        self.body, self.parts, self.head = Body(act, bias), nn.ModuleList(parts), head

    def forward(self, x):
        return self.head(self.parts, self.body(x))


def stir(net, seed):
    g = torch.Generator().manual_seed(seed)
    rand = lambda n: torch.rand(n, generator=g)
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
            n = m.weight.shape
            m.weight.data.copy_(rand(n) * 0.8 + 0.6)
            m.bias.data.copy_(rand(n) - 0.5)
            if isinstance(m, nn.BatchNorm2d):
                m.weight.data[1] *= -1
                m.bias.data[:2] = -9.0
                m.running_mean.copy_(rand(n) - 0.5)
                m.running_var.copy_(rand(n) * 0.3 + 0.05)
        elif isinstance(m, (nn.Conv2d, nn.Linear)):
            m.weight.data.mul_(2.0)
            if m.bias is not None:
                m.bias.data.copy_((rand(m.bias.shape) - 0.5) * 0.6)
    return net.eval()


def linear(i, o=CLASSES):
    return nn.Linear(i, o)


class SpelledNorm(nn.Module):
    """Layer norm in single operators, as older exporters wrote it."""

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        moved = x - mean
        return moved / torch.sqrt((moved**2).mean(-1, keepdim=True) + 1e-5) * 1.3 + 0.1


class Above(nn.Module):
    """What of a map lies above a threshold."""

    def forward(self, x):
        return F.relu(x - 1.2)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(CHANNELS, 4, 1), nn.Conv2d(4, CHANNELS, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class AttentionPool(nn.Module):
    """Attention of a learnt query over the pixels of the map."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Parameter(torch.randn(1, 1, 8)), linear(CHANNELS, 8)

    def forward(self, x):
        t = x.flatten(2).transpose(1, 2)
        return (F.softmax(self.query @ self.key(t).transpose(1, 2), -1) @ t).squeeze(1)


class EinsumPool(nn.Module):
    """Attention over the pixels of the map in einsum notation, which the older exporter keeps as Einsum."""

    def __init__(self):
        super().__init__()
        self.query, self.values = nn.Parameter(torch.randn(2, CHANNELS)), nn.Parameter(torch.randn(CHANNELS, 6))

    def forward(self, x):
        t = x.flatten(2).transpose(1, 2)
        weights = F.softmax(torch.einsum("bnc,hc->bhn", t, self.query), -1)
        return torch.einsum("bhn,bnd->bdh", weights, torch.einsum("bnc,cd->bnd", t, self.values)).flatten(1)


class Branches(nn.Module):
    """The end of Inception: joined branches."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(CHANNELS, 5, 1, bias=False), nn.Conv2d(CHANNELS, 7, 3, padding=1, bias=False)
        self.n, self.m = nn.BatchNorm2d(5), nn.BatchNorm2d(7)

    def forward(self, x):
        return torch.cat([F.relu(self.n(self.a(x))), F.relu(self.m(self.b(x)))], 1)


mean = lambda x: x.mean((2, 3))
largest = lambda x: torch.amax(x, (2, 3))
both = lambda x: torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], 1).flatten(1)

# name: (head, parts, act, bias, probabilities come out)
NETS = {
    "max": (lambda p, x: p[0](largest(x)), lambda: [linear(12)], nn.ReLU, False),
    "max_silu": (lambda p, x: p[0](largest(x)), lambda: [linear(12)], nn.SiLU, False),
    "max_and_mean": (lambda p, x: p[0](both(x)), lambda: [linear(24)], nn.ReLU, False),
    "fastai": (
        lambda p, x: p[3](F.relu(p[2](p[1](p[0](both(x)))))),
        lambda: [nn.BatchNorm1d(24), linear(24, 16), nn.Identity(), linear(16)], nn.ReLU, False,
    ),
    "max_pool_flatten": (
        lambda p, x: p[1](F.relu(p[0](F.max_pool2d(x, 2).flatten(1)))),
        lambda: [linear(12 * 16, 16), linear(16)], nn.ReLU, False,
    ),
    "max_pool_overlapping": (
        lambda p, x: p[0](F.max_pool2d(x, 3, 2, 1, ceil_mode=True).flatten(1)),
        lambda: [linear(12 * 25)], nn.SiLU, False,
    ),
    "flatten": (lambda p, x: p[0](x.flatten(1)), lambda: [linear(12 * 64)], nn.ReLU, False),
    "flatten_last": (
        lambda p, x: p[1](F.relu(p[0](x.permute(0, 2, 3, 1).flatten(1)))),
        lambda: [linear(12 * 64, 10), linear(10)], nn.ReLU, True,
    ),
    "mean_of_a_part": (lambda p, x: p[0](F.avg_pool2d(x, 5).flatten(1)), lambda: [linear(12)], nn.ReLU, False),
    "mean_padded": (
        lambda p, x: p[0](F.avg_pool2d(x, 3, 2, 1).flatten(1)), lambda: [linear(12 * 16)], nn.ReLU, False,
    ),
    "mean_unpadded": (
        lambda p, x: p[0](F.avg_pool2d(x, 3, 2, 1, count_include_pad=False).flatten(1)),
        lambda: [linear(12 * 16)], nn.SiLU, False,
    ),
    "layer_norm": (lambda p, x: p[1](p[0](mean(x))), lambda: [nn.LayerNorm(12), linear(12)], nn.ReLU, False),
    "layer_norm_spelled": (lambda p, x: p[1](p[0](mean(x))), lambda: [SpelledNorm(), linear(12)], nn.GELU, False),
    "layer_norm_of_places": (
        lambda p, x: p[1](p[0](x.permute(0, 2, 3, 1)).mean((1, 2))),
        lambda: [nn.LayerNorm(12), linear(12)], nn.ReLU, False,
    ),
    "temperature": (lambda p, x: p[0](mean(x)) / 0.7, lambda: [linear(12)], nn.ReLU, False),
    "mean_of_heads": (
        lambda p, x: (p[0](mean(x)) + p[1](mean(x))) / 2, lambda: [linear(12), linear(12)], nn.ReLU, False,
    ),
    "log_softmax": (lambda p, x: F.log_softmax(p[0](mean(x)), 1), lambda: [linear(12)], nn.ReLU, False),
    "gate": (lambda p, x: p[1](mean(p[0](x))), lambda: [Gate(), linear(12)], nn.ReLU, False),
    "attention": (lambda p, x: p[1](p[0](x)), lambda: [AttentionPool(), linear(12)], nn.ReLU, False),
    "softmax_inside": (
        lambda p, x: p[1](F.softmax(p[0](mean(x)), 1) * 3), lambda: [linear(12, 6), linear(6)], nn.ReLU, False,
    ),
    "bias_of_its_own": (lambda p, x: p[0](mean(x)), lambda: [linear(12)], nn.ReLU, True),
    "saturated": (lambda p, x: p[0](mean(x)) * 60, lambda: [linear(12)], nn.ReLU, False),
    "branches": (lambda p, x: p[1](mean(p[0](x))), lambda: [Branches(), linear(12)], nn.ReLU, False),
    "mean_of_softmaxes": (
        lambda p, x: (F.softmax(p[0](mean(x)) * 3, 1) + F.softmax(p[1](mean(x)) * 3, 1)) / 2,
        lambda: [linear(12), linear(12)], nn.ReLU, False,
    ),
    "conv_of_the_map": (
        lambda p, x: p[1](F.relu(p[0](x)).flatten(1)), lambda: [nn.Conv2d(12, 10, 8), linear(10)], nn.ReLU, False,
    ),
    "depthwise_of_the_map": (
        lambda p, x: p[1](p[0](x).flatten(1)), lambda: [nn.Conv2d(12, 12, 8, groups=12), linear(12)], nn.SiLU, False,
    ),
    "einsum": (lambda p, x: p[1](p[0](x)), lambda: [EinsumPool(), linear(12)], nn.ReLU, False),
    "half": (lambda p, x: p[0](mean(x)), lambda: [linear(12)], nn.ReLU, True),
    "softmax_then_flatten": (
        lambda p, x: F.softmax(p[0](mean(x)[..., None, None]), 1).flatten(1),
        lambda: [nn.Conv2d(12, CLASSES, 1)], nn.ReLU, False,
    ),
    "max_pool_padded": (
        lambda p, x: p[0](F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2).flatten(1)), lambda: [linear(12 * 16)], nn.SiLU,
        False,
    ),
    "mean_with_border": (
        lambda p, x: p[0](F.avg_pool2d(F.pad(x, (2, 1, 0, 1), value=0.5), 3, 2).flatten(1)),
        lambda: [linear(12 * 20)], nn.ReLU, False,
    ),
    "group_norm": (
        lambda p, x: p[1](mean(p[0](x))), lambda: [nn.Sequential(nn.GroupNorm(3, 12), nn.ReLU()), linear(12)], nn.ReLU,
        False,
    ),
    # Some pixels are zero in all channels.
    "lengths": (
        lambda p, x: p[1](torch.norm(p[0](x), dim=1).flatten(1)), lambda: [Above(), linear(64)], nn.ReLU, False,
    ),
}
# Nets whose outputs are probabilities.
DONE = ("mean_of_softmaxes", "softmax_then_flatten")
OPSETS = {"layer_norm": 17, "gate": 18, "mean_of_heads": 18, "max": 20, "max_silu": 18, "layer_norm_spelled": 18}


def finished(maps, gradient):
    heat = F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1)[0])
    most = heat.max()
    return (heat / most if most > 1e-10 else heat * 0).detach().numpy()


def photos():
    raw = np.frombuffer((HERE / "fixtures" / "photos.u8").read_bytes(), "u1")
    raw = raw.reshape(-1, SIDE, SIDE, 3)[:PHOTOS].transpose(0, 3, 1, 2)
    return [torch.tensor(p[None].astype("float64") - 127.5) / 127.5 for p in raw]


def halve(path):
    """Stores the weights in half precision, as converters do; the photo and the scores stay float32."""
    model = onnx.load(path)
    for weights in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype == np.float32:
            weights.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), weights.name))
    renamed = {"image": "image_half", "scores": "scores_half"}
    for node in model.graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    cast = lambda a, b, to: onnx.helper.make_node("Cast", [a], [b], to=to, name=f"cast_{b}")
    model.graph.node.insert(0, cast("image", "image_half", onnx.TensorProto.FLOAT16))
    model.graph.node.append(cast("scores_half", "scores", onnx.TensorProto.FLOAT))
    del model.graph.value_info[:]
    onnx.save(model, path)


def keep(folder, found):
    """Writes named arrays to `expected.f32`, and their offsets and shapes to `expected.json`."""
    entries, at, flat = {}, 0, []
    for key, values in found.items():
        values = np.stack(values)
        entries[key] = {"shape": values.shape, "offset": at}
        at += values.size
        flat.append(values.ravel())
    (folder / "expected.f32").write_bytes(np.concatenate(flat).astype("<f4").tobytes())
    (folder / "expected.json").write_text(json.dumps(entries, indent=1) + "\n")


def write(name, seed):
    head, parts, act, bias = NETS[name]
    torch.manual_seed(seed)
    net = stir(Net(head, *parts(), act=act, bias=bias), seed)
    if name == "half":
        net = net.half().float()
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        net, (torch.zeros(1, 3, SIDE, SIDE),), folder / "model.onnx", dynamo=False,
        opset_version=OPSETS.get(name, 13), input_names=["image"], output_names=["scores"],
    )  # fmt: skip
    if name == "half":
        halve(folder / "model.onnx")
    net = net.double()
    kept = {}
    catch = lambda key: lambda m, i, o: kept.__setitem__(key, o)
    net.body.conv.register_forward_hook(catch("conv"))
    where = net.parts[0] if name == "branches" else net.body.act
    where.register_forward_hook(catch("act"))
    if name in ("gate", "group_norm", "lengths"):
        net.parts[0].register_forward_hook(catch("act"))
    if name == "layer_norm_of_places":
        net.parts[0].register_forward_hook(lambda m, i, o: kept.__setitem__("act", o))
    found = {"probabilities": [], "conv": [], "act": []}
    for photo in photos():
        p = net(photo.requires_grad_())[0]
        p = p if name in DONE else F.softmax(p, 0)
        found["probabilities"].append(p.detach().numpy())
        for key in ("conv", "act"):
            t = kept[key]
            maps = []
            for c in range(CLASSES):
                (g,) = torch.autograd.grad(p[c], t, retain_graph=True)
                last = key == "act" and name == "layer_norm_of_places"
                order = (0, 3, 1, 2) if last else (0, 1, 2, 3)
                maps.append(finished(t.permute(*order), g.permute(*order)))
            found[key].append(np.stack(maps))
    keep(folder, found)
    print(name, np.round(found["probabilities"][0], 3))


if __name__ == "__main__":
    for number, name in enumerate(NETS):
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            write(name, 20261126 + number)
