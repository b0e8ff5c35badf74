"""Small nets written by hand with heads, inputs and outputs that are less usual, in PyTorch."""

import copy
import sys

import onnx
import torch
import torch.nn.functional as F
from torch import nn

from zoo_nets import onnx_nets, torch_nets
from zoo_nets.look import Net
from zoo_nets.nets import OWN_TORCH
from zoo_nets.served import CLASSES, photos

SIDE = 64
WIDTH = 24


def body(norm=nn.BatchNorm2d, act=nn.ReLU, first=3):
    """Convolutions to a map [1, 24, 8, 8]."""
    layers = [m for a, b in [(first, 12), (12, 16), (16, WIDTH)]
              for m in (nn.Conv2d(a, b, 3, 2, 1, bias=False), norm(b), act())]
    return nn.Sequential(*layers)


class Own(nn.Module):
    """The body, and a dense layer after the pooling that a subclass writes."""

    def __init__(self, features=WIDTH, classes=CLASSES, **given):
        super().__init__()
        self.body, self.head = body(**given), nn.Linear(features, classes)

    def forward(self, x):
        return self.head(self.pooled(self.body(x)))

    def pooled(self, x):
        return x.mean((2, 3))


class AttentionPooling(Own):
    """As at the end of CLIP's ResNet: the mean attends to the mean and all places."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.randn(65, WIDTH) * 0.3)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def pooled(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.places
        split = lambda t: t.unflatten(-1, (4, WIDTH // 4)).transpose(1, 2)
        found = F.scaled_dot_product_attention(split(self.q(x[:, :1])), split(self.k(x)), split(self.v(x)))
        return found.transpose(1, 2).flatten(1)


class Eca(Own):
    """Efficient channel attention: a convolution over the channels."""

    def __init__(self):
        super().__init__()
        self.over = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def pooled(self, x):
        gate = self.over(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1)
        return (x * torch.sigmoid(gate)).mean((2, 3))


class Rows(Own):
    """An LSTM that reads the map row by row."""

    def __init__(self):
        super().__init__(20)
        self.lstm = nn.LSTM(WIDTH * 8, 20, batch_first=True)

    def pooled(self, x):
        return self.lstm(x.permute(0, 2, 3, 1).flatten(2))[0][:, -1]


class Scripted(Own):
    """Control flow that only `torch.jit.script` keeps, and probabilities."""

    def forward(self, x):
        x = self.body(x)
        if x.size(2) > 1:
            x = x.mean([2, 3])
        else:
            x = x.flatten(1)
        return torch.softmax(self.head(x), 1)


class ThreeOutputs(Own):
    def forward(self, x):
        x = self.body(x)
        pooled = x.mean((2, 3))
        return pooled, self.head(pooled), x


class ChannelsLast(Own):
    def __init__(self):
        super().__init__(64 * WIDTH)

    def pooled(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class MaxPooling(Own):
    def pooled(self, x):
        return F.adaptive_max_pool2d(x, 1).flatten(1)


class LabelsApart(MaxPooling):
    """A sigmoid for each label."""

    def forward(self, x):
        return torch.sigmoid(super().forward(x))


class Ordinal(Own):
    """Cumulative probabilities of seven grades; the answer is their differences."""

    def __init__(self):
        super().__init__(classes=1)
        self.steps = nn.Parameter(torch.tensor([2.0, 1.2, 0.5, -0.3, -1.1, -2.2]))

    def forward(self, x):
        above = torch.sigmoid(super().forward(x) + self.steps)
        one = torch.ones_like(above[:, :1])
        return torch.cat([one, above], 1) - torch.cat([above, one * 0], 1)


class PhotoAndAge(Own):
    def __init__(self):
        super().__init__(WIDTH + 4)
        self.age = nn.Linear(1, 4)

    def forward(self, x, age=None):
        age = torch.full((len(x), 1), 0.5, dtype=x.dtype) if age is None else age
        return self.head(torch.cat([self.body(x).mean((2, 3)), torch.relu(self.age(age))], 1))


class Pyramid(Own):
    """Spatial pyramid pooling: means of the whole map, its quarters and its sixteenths."""

    def __init__(self):
        super().__init__(21 * WIDTH)

    def pooled(self, x):
        return torch.cat([F.adaptive_avg_pool2d(x, side).flatten(1) for side in (1, 2, 4)], 1)


class Hybrid(Own):
    """A map whose places are tokens of a transformer encoder."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 64, WIDTH) * 0.3)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 4, 48, batch_first=True, norm_first=True, activation="gelu")

    def pooled(self, x):
        return self.encoder(x.flatten(2).transpose(1, 2) + self.places).mean(1)


class Cropped(Own):
    """Takes the middle of its photo."""

    def forward(self, x):
        return super().forward(x[:, :, 16:-16, 16:-16])


class Flipped(Own):
    def forward(self, x):
        return (super().forward(x) + super().forward(x.flip(3))) / 2


class Focus(Own):
    """Four photos of half the size as channels, as YOLOv5's first layer."""

    def __init__(self):
        super().__init__(act=nn.Mish, first=12)

    def forward(self, x):
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return super().forward(torch.cat(parts, 1))


class Cosine(Own):
    """Generalised mean pooling, and cosines to the classes' directions."""

    def forward(self, x):
        x = self.body(x).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
        return 4 * F.linear(F.normalize(x), F.normalize(self.head.weight))


NETS = {
    "attention pooling": AttentionPooling, "ECA": Eca, "group norm": lambda: Own(norm=lambda n: nn.GroupNorm(4, n), act=nn.SiLU),
    "LSTM over rows": Rows, "scripted, softmax inside": Scripted, "three outputs": ThreeOutputs,
    "flatten, channels last": ChannelsLast, "open batch": Own, "bytes, channels last": Own,
    "labels apart, max pooling": LabelsApart, "ordinal": Ordinal, "photo and age": PhotoAndAge, "pyramid pooling": Pyramid,
    "instance norm, PReLU": lambda: Own(norm=lambda n: nn.InstanceNorm2d(n, affine=True), act=nn.PReLU),
    "map and transformer": Hybrid, "crop inside": Cropped, "mean with the flipped photo": Flipped, "focus, Mish": Focus,
    "cosine": Cosine,
}  # fmt: skip
# What the answer of a net is, if it is not logits.
DONE = {"scripted, softmax inside", "labels apart, max pooling", "ordinal"}


class Scores(nn.Module):
    """The scores of a net with several outputs."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        found = self.net(x)
        return found[1] if isinstance(found, tuple) else found


def stirred(name, net):
    """As `torch_nets.stirred`; a net without seven logits before its answer only gets its statistics."""
    if name not in DONE and name != "cosine":
        torch_nets.stirred(Scores(net), SIDE)
        return net
    pictures = torch.cat([torch_nets.tensor(photo) for photo in photos(SIDE, SIDE)]).float()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.7, 1.3)
            module.bias.data.uniform_(-0.3, 0.3)
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(pictures)
    net.head.weight.data *= 4
    return net.eval()


def reference(name, net):
    """PyTorch's own results in float64; the map of an exported file may be that before the scores."""
    net = Scores(copy.deepcopy(net))
    return torch_nets.reference(net, (lambda scores: scores) if name in DONE else None)


def written(name, net, folder):
    """The file, and the flags that prepare it."""
    exporter, opset = OWN_TORCH[name]
    flags, file = [*torch_nets.FLAGS], folder / "net.onnx"
    example = torch.zeros(1, 3, SIDE, SIDE)
    if exporter == ".pt":
        torch.jit.script(net).save(folder / "net.pt")
        return folder / "net.pt", [*flags, "--size", f"{SIDE}x{SIDE}"]
    if name == "open batch":
        torch.onnx.export(net, (example.expand(2, -1, -1, -1),), str(file), dynamo=True, opset_version=opset,
                          dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    elif name == "photo and age":
        torch.onnx.export(net, (example, torch.zeros(1, 1)), str(file), input_names=["image", "age"], dynamo=False,
                          opset_version=opset)
        flags += ["--input-default", "age=0.5"]
    elif name == "three outputs":
        torch.onnx.export(net, (example,), str(file), input_names=["image"], output_names=["features", "scores", "map"],
                          dynamo=False, opset_version=opset)
        flags += ["--scores", "scores"]
    else:
        file = torch_nets.written(net, SIDE, exporter, folder, opset)
    if name == "bytes, channels last":
        model = onnx.load(file)
        onnx_nets.takes_bytes(model, SIDE, last=True)
        onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
        flags = []
    return file, flags


def make(_, name, folder):
    torch.manual_seed(3)
    torch.set_num_threads(1)
    net = stirred(name, NETS[name]().eval())
    look = reference(name, net)
    file, flags = written(name, net, folder)
    exported = OWN_TORCH[name][0] if OWN_TORCH[name][0].startswith(".") else f"{OWN_TORCH[name][0]}, {OWN_TORCH[name][1]}"
    return Net(file, [*flags, "--python", sys.executable], (SIDE, SIDE), look, exported=exported)
