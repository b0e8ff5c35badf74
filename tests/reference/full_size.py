"""Measures the cost and the accuracy of heatmaps on networks of full size, and prints a table.

    cargo build --release
    ORT_DYLIB_PATH=LIBRARY python tests/reference/full_size.py FOLDER [NAME...]   # torch, torchvision, timm, onnx

Each network gets random weights and seven classes, is exported, and is prepared with and without heatmaps.
Every engine answers three photos, and each heatmap is compared with autograd in float64 at the named layer.
The time is a median over turns: the fastest run with heatmaps divided by the fastest without. The memory is
the difference of the peaks. SKINCELL names another binary than target/release/skincell. The shares printed by
`model prepare` are computed from shapes. Exits with 1 if a map differs by more than 2e-3 or a cost exceeds
the limits named below. docs/heatmap.md has the table. Too slow for CI.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

warnings.filterwarnings("ignore")
ROOT = Path(__file__).parents[2]
CLASSES, SIDE, TURNS = 7, 224, 5
PHOTOS = ["coffee.webp", "skin.jpg", "drawn-acne-1.jpg"]
SKINCELL = os.environ.get("SKINCELL", ROOT / "target" / "release" / "skincell")
# Limits: ratio of times, MiB.
LINE, LINES = (1.05, 10), {"alexnet": (1.25, 10), "vgg16": (1.05, 16)}


class Ham(nn.Module):
    """The CNN of many HAM10000 notebooks."""

    def __init__(self):
        super().__init__()
        stages, before = [], 3
        for width in (32, 64, 128):
            stages += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
                       nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)]  # fmt: skip
            before = width
        self.features = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(128 * 28 * 28, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, CLASSES)
        )

    def forward(self, x):
        return self.head(self.features(x))


class Fastai(nn.Module):
    """A resnet34 with the head of fastai's vision_learner."""

    def __init__(self):
        super().__init__()
        import torchvision

        self.body = nn.Sequential(*list(torchvision.models.resnet34(weights=None).children())[:-2])
        self.head = nn.Sequential(
            nn.BatchNorm1d(1024), nn.Dropout(0.25), nn.Linear(1024, 512, bias=False), nn.ReLU(),
            nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, CLASSES, bias=False),
        )  # fmt: skip

    def forward(self, x):
        x = self.body(x)
        return self.head(torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], 1).flatten(1))


def timm_net(name, **changes):
    def make():
        import timm

        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **changes)

    return make


def torchvision_net(name):
    def make():
        import torchvision

        return getattr(torchvision.models, name)(weights=None, num_classes=CLASSES)

    return make


# name: (net, the module whose output is shown, tokens before the photo's)
NETS = {
    "vit_tiny": (timm_net("vit_tiny_patch16_224"), "blocks.11.norm1", 1),
    "deit_tiny_distilled": (timm_net("deit_tiny_distilled_patch16_224"), "blocks.11.norm1", 2),
    "swin_tiny": (timm_net("swin_tiny_patch4_window7_224"), "norm", 0),
    "convnext_tiny": (timm_net("convnext_tiny"), "stages.3", 0),
    "vgg16": (torchvision_net("vgg16"), "features.29", 0),
    "alexnet": (torchvision_net("alexnet"), "features.11", 0),
    "ham10000_cnn": (Ham, "features.15", 0),
    "fastai_resnet34": (Fastai, "body", 0),
    "efficientnet_b0_max": (timm_net("efficientnet_b0", global_pool="max"), "bn2", 0),
}


def stir(net, photos):
    """Gives norms statistics from the photos and random parameters, and scales the scores to a typical
    spread."""
    g = torch.Generator().manual_seed(20261127)
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d)):
            m.momentum = None
    if any(isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d)) for m in net.modules()):
        net.train()
        with torch.no_grad():
            net(torch.cat(photos))
    for name, p in net.named_parameters():
        if p.dim() == 1:
            p.data.add_((torch.rand(p.shape, generator=g) - 0.5) * 0.4)
        elif "gamma" in name:
            p.data.add_(torch.rand(p.shape, generator=g) * 0.5)
    net.eval()
    last = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features == CLASSES]
    with torch.no_grad():
        for m in last:
            m.weight.data.copy_(torch.randn(m.weight.shape, generator=g) / m.in_features**0.5)
        spread = net(torch.cat(photos)).std().clamp(min=1e-6)
        for m in last:
            m.weight.data.mul_(1.5 / spread)
    return net


def tensors():
    """[1, 3, 224, 224], float32, about -2 to 2."""
    for name in PHOTOS:
        photo = Image.open(ROOT / "tests" / "photos" / name).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS)
        yield torch.tensor((np.asarray(photo, "f4").transpose(2, 0, 1)[None] - 127.5) / 64.0)


def as_map(t, before):
    if t.dim() == 3:
        t = t[:, before:]
        side = round(t.shape[1] ** 0.5)
        return t.transpose(1, 2).reshape(1, t.shape[2], side, side)
    return t.permute(0, 3, 1, 2) if t.shape[2] == t.shape[1] else t


def by_autograd(net, shown, before, photos):
    """Each photo's probabilities, and its heatmap of each class."""
    net, kept = net.double(), {}
    handle = net.get_submodule(shown).register_forward_hook(lambda m, i, o: kept.__setitem__("map", o))
    for photo in photos:
        scores = net(photo.double().requires_grad_())[0]
        p, maps = F.softmax(scores, 0), []
        for c in range(CLASSES):
            # If the map of the probability is blank, that of the score is shown instead.
            for value in (p[c], scores[c]):
                (g,) = torch.autograd.grad(value, kept["map"], retain_graph=True)
                t, g = as_map(kept["map"], before), as_map(g, before)
                heat = F.relu((g.mean((2, 3), keepdim=True) * t).sum(1)[0])
                if heat.max() > 1e-10:
                    heat = heat / heat.max()
                    break
            maps.append(heat.detach().numpy().ravel())
        yield p.detach().numpy(), maps
    handle.remove()


def skincell(*arguments, check=True):
    done = subprocess.run([SKINCELL, *map(str, arguments)], capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"{arguments}\n{done.stdout}{done.stderr}")
    return done.stdout


def measured(folder, photo, engine):
    out = skincell("model", "measure", "--inside", folder, photo, "--engine", engine, "--rounds", 8)
    return json.loads(out)


def one(name, home):
    make, shown, before = NETS[name]
    torch.manual_seed(20261127)
    photos = list(tensors())
    net = stir(make(), photos)
    raw, labels = home / f"{name}.onnx", home / "labels.txt"
    labels.write_text("".join(f"class {i}\n" for i in range(CLASSES)))
    torch.onnx.export(
        net, (photos[0],), raw, dynamo=False, opset_version=17, input_names=["image"], output_names=["scores"]
    )
    files = []
    for index, photo in enumerate(photos):
        files.append(home / f"photo{index}.npy")
        np.save(files[-1], photo.numpy())
    folders = [home / f"{name}-plain", home / f"{name}-cam"]
    said = [
        skincell("model", "prepare", raw, "--labels", labels, "-o", folder, "--force", "--cam-target", target)
        for folder, target in zip(folders, ("none", "activation"))
    ]
    priced = re.search(r"price +(.*)", said[1])
    layer = re.search(r"layer (\S+)", said[1])
    if not layer:
        print(said[1])
        return True
    right, bad = list(by_autograd(net, shown, before, photos)), False
    engines = ["rten"] + (["onnxruntime"] if "ORT_DYLIB_PATH" in os.environ else [])
    if all((folder / "model.cell").exists() for folder in folders):
        engines.append("cellnet")
    for engine in engines:
        kept = home / "kept.json"
        skincell("model", "check", folders[1], *files, "--engine", engine, "--keep", kept)
        answers, off, count = json.loads(kept.read_text())["photos"], 0.0, 0
        for file, (p, maps) in zip(files, right):
            answer = answers[str(file)]
            if np.abs(np.array(answer["probabilities"]) - p).max() > 1e-4:
                print(f"{name} {engine}: probabilities differ")
                bad = True
            for c, heat in answer["heatmaps"].items():
                off, count = max(off, np.abs(np.array(heat) - maps[int(c)]).max()), count + 1
        turns = [[measured(folder, files[0], engine) for folder in folders] for _ in range(TURNS)]
        ratio = statistics.median(c["fastest_ms"] / p["fastest_ms"] for p, c in turns)
        more = statistics.median(c["peak_kb"] - p["peak_kb"] for p, c in turns) / 1024
        time = statistics.median(p["fastest_ms"] for p, _ in turns)
        most, memory = LINES.get(name, LINE)
        wrong = off > 2e-3 or ratio > most or more > memory
        bad |= wrong
        print(f"| {name} | `{layer[1]}` | {engine} | {time:.1f} ms | × {ratio:.3f} | {more:+.1f} MiB | {count}, "
              f"{off:.1e} | {priced[1] if priced else ''} |{' **too much**' if wrong else ''}", flush=True)  # fmt: skip
    for folder in folders:
        subprocess.run(["rm", "-r", folder], check=True)
    raw.unlink()
    return bad


if __name__ == "__main__":
    torch.set_num_threads(1)
    home = Path(sys.argv[1])
    home.mkdir(parents=True, exist_ok=True)
    print("| network | layer | engine | without | with | memory | maps, furthest | by shapes |")
    print("|---|---|---|---|---|---|---|---|")
    sys.exit(any([one(name, home) for name in sys.argv[2:] or NETS]))
