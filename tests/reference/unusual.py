"""Makes the fixtures of less common heads.

    /path/to/venv/bin/python tests/reference/unusual.py      # torch, onnx; writes tests/reference/heads

As heads.py; the map "act" is the output of the module named beside each net. The heatmaps of the last two
nets must be refused.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import heads
import tokens
from heads import CHANNELS, CLASSES, OUT, Body

SIDE = 8


class Base(nn.Module):
    """Convolutions to a map [1, 12, 8, 8], and a dense layer."""

    def __init__(self, features=CHANNELS, act=nn.ReLU):
        super().__init__()
        self.body, self.fc, self.out = Body(act, False), nn.Linear(features, CLASSES), nn.Identity()


class Gem(Base):
    """Generalised mean pooling."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x):
        return self.fc(self.body(x).clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p))


class Bilinear(Base):
    """Bilinear pooling: products of all pairs of channels, signed square root, normalised."""

    def __init__(self):
        super().__init__(CHANNELS**2)

    def forward(self, x):
        x = self.body(x).flatten(2)
        y = (x @ x.transpose(1, 2) / SIDE**2).flatten(1)
        return self.fc(F.normalize(torch.sign(y) * torch.sqrt(y.abs() + 1e-5)) * 3)


class Cbam(Base):
    """CBAM: gates for channels and for pixels."""

    def __init__(self):
        super().__init__(act=nn.SiLU)
        self.gate = nn.Sequential(nn.Conv2d(CHANNELS, 4, 1), nn.ReLU(), nn.Conv2d(4, CHANNELS, 1))
        self.places = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        x = self.body(x)
        x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)) + self.gate(F.adaptive_max_pool2d(x, 1)))
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.fc(self.out(x * torch.sigmoid(self.places(seen))).mean((2, 3)))


class Shuffle(Base):
    """The end of ShuffleNet: half of the channels are convolved, then all are shuffled."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, x):
        kept, other = self.body(x).chunk(2, 1)
        x = torch.cat([kept, self.branch(other)], 1).view(1, 2, 6, SIDE, SIDE)
        return self.fc(self.out(x.transpose(1, 2).reshape(1, CHANNELS, SIDE, SIDE)).mean((2, 3)))


class Ghost(Base):
    """GhostNet's module: channels, and further channels computed from them by depthwise convolution."""

    def __init__(self):
        super().__init__(2 * CHANNELS)
        conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
        self.cheap = nn.Sequential(conv, nn.BatchNorm2d(CHANNELS), nn.ReLU())

    def forward(self, x):
        x = self.body(x)
        return self.fc(self.out(torch.cat([x, self.cheap(x)], 1)).mean((2, 3)))


class Clip(nn.Module):
    """CLIP's image encoder with the tokens' axis first, and cosine similarities to the classes' texts."""

    def __init__(self, width=16):
        super().__init__()
        self.conv, self.cls = nn.Conv2d(3, width, 8, 8, bias=False), nn.Parameter(torch.randn(width))
        self.places = nn.Parameter(torch.randn(17, width))
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        two = lambda make: nn.ModuleList([make() for _ in range(2)])
        self.norm1, self.norm2 = two(lambda: nn.LayerNorm(width)), two(lambda: nn.LayerNorm(width))
        self.attention = two(lambda: nn.MultiheadAttention(width, 2))
        self.up, self.down = two(lambda: nn.Linear(width, 32)), two(lambda: nn.Linear(32, width))
        self.projection, self.texts = nn.Parameter(torch.randn(width, 8)), nn.Parameter(torch.randn(CLASSES, 8))

    def forward(self, x):
        x = self.conv(x).flatten(2).permute(0, 2, 1)
        x = self.before(torch.cat([self.cls.expand(1, 1, -1), x], 1) + self.places).permute(1, 0, 2)
        for i in range(2):
            n = self.norm1[i](x)
            x = x + self.attention[i](n, n, n, need_weights=False)[0]
            h = self.up[i](self.norm2[i](x))
            x = x + self.down[i](h * torch.sigmoid(1.702 * h))
        x = self.after(x.permute(1, 0, 2)[:, 0, :]) @ self.projection
        texts = self.texts / self.texts.norm(dim=-1, keepdim=True)
        return 5 * (x / x.norm(dim=-1, keepdim=True)) @ texts.t()


class Relative(Base):
    """The end of CoAtNet: attention with relative positions in a map."""

    def __init__(self):
        super().__init__()
        self.qkv, self.join = nn.Conv2d(CHANNELS, 3 * CHANNELS, 1), nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.bias, self.norm = nn.Parameter(torch.randn(1, 2, SIDE**2, SIDE**2) * 0.3), nn.LayerNorm(CHANNELS)

    def forward(self, x):
        x = self.body(x)
        q, k, v = self.qkv(x).view(1, 3, 2, 6, SIDE**2).unbind(1)
        a = (q.transpose(-1, -2) @ k * 6**-0.5 + self.bias).softmax(-1)
        x = self.out(x + self.join((v @ a.transpose(-1, -2)).reshape(1, CHANNELS, SIDE, SIDE)))
        return self.fc(self.norm(x.mean((2, 3))))


class Former(Base):
    """The end of EfficientFormer: convolutions, then tokens, and two heads."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.other = nn.Linear(CHANNELS, CLASSES)
        self.q, self.k, self.v = (nn.Linear(CHANNELS, CHANNELS) for _ in range(3))

    def forward(self, x):
        x = self.body(x).flatten(2).transpose(1, 2)
        n = self.norm1(x)
        x = x + (self.q(n) @ self.k(n).transpose(1, 2) * 0.3).softmax(-1) @ self.v(n)
        x = self.norm2(x).mean(1)
        return (self.fc(x) + self.other(x)) / 2


class ClassAttention(Base):
    """The end of CaiT: a class token attends to tokens that no longer change."""

    def __init__(self):
        super().__init__()
        two = lambda make: nn.ModuleList([make() for _ in range(2)])
        self.cls, self.last = nn.Parameter(torch.randn(1, 1, CHANNELS)), nn.LayerNorm(CHANNELS)
        self.norm, self.q = two(lambda: nn.LayerNorm(CHANNELS)), two(lambda: nn.Linear(CHANNELS, CHANNELS))
        self.kv, self.mix = two(lambda: nn.Linear(CHANNELS, 2 * CHANNELS)), two(lambda: nn.Linear(CHANNELS, CHANNELS))

    def forward(self, x):
        x, token = self.out(self.body(x).flatten(2).transpose(1, 2)), self.cls
        for i in range(2):
            u = self.norm[i](torch.cat([token, x], 1))
            k, v = self.kv[i](u).chunk(2, -1)
            token = token + (self.q[i](u[:, :1]) @ k.transpose(1, 2) * 0.3).softmax(-1) @ v
            token = token + F.gelu(self.mix[i](token))
        return self.fc(self.last(torch.cat([token, x], 1))[:, 0])


class Mixer(nn.Module):
    """An MLP-Mixer's block."""

    def __init__(self, width=16):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 8, 8), nn.Linear(width, CLASSES)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.places, self.places2 = nn.Linear(16, 24), nn.Linear(24, 16)
        self.channels, self.channels2 = nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = x + self.places2(F.gelu(self.places(self.norm1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.channels2(F.gelu(self.channels(self.norm2(x))))
        return self.fc(self.norm3(x).mean(1))


class Scales(Base):
    """A U-Net's encoder whose head reads two scales, so that a convolution follows the last common map."""

    def __init__(self):
        super().__init__(CHANNELS + 16)
        self.down = nn.Conv2d(CHANNELS, 16, 3, 2, 1)

    def forward(self, x):
        x = self.body(x)
        return self.fc(torch.cat([x.mean((2, 3)), F.relu(self.down(x)).mean((2, 3))], 1))


class Ensemble(nn.Module):
    """Two networks without a common map."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Base(), Base()

    def forward(self, x):
        of = lambda net: net.fc(net.body(x).mean((2, 3)))
        return (of(self.a) + of(self.b)) / 2


# name: (net, the module whose output is shown)
NETS = {
    "gem": (Gem, "body.act"), "bilinear": (Bilinear, "body.act"), "cbam": (Cbam, "out"), "shuffle": (Shuffle, "out"),
    "ghost": (Ghost, "out"), "clip": (Clip, "norm1.1"), "relative": (Relative, "out"), "former": (Former, "norm2"),
    "class_attention": (ClassAttention, "out"), "mixer": (Mixer, "norm3"),
    "refused_scales": (Scales, "body.act"), "refused_ensemble": (Ensemble, "a.body.act"),
}  # fmt: skip


def write(name, seed):
    make, shown = NETS[name]
    torch.manual_seed(seed)
    net = heads.stir(make(), seed) if issubclass(make, Base) or make is Ensemble else tokens.stir(make(), seed)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    tokens.export(net, folder / "model.onnx", False, False)
    found = tokens.kept_maps(net, shown, 1 if name == "clip" else 0, lambda z: F.softmax(z, 0))
    del found["logit"]
    heads.keep(folder, found)
    print(name, np.round(found["probabilities"][0], 3))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, name in enumerate(NETS):
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            write(name, 20261327 + number)
