"""Makes the fixtures of transformers and similar networks of timm, torchvision and transformers.

    /path/to/venv/bin/python tests/reference/tokens.py      # torch, timm, torchvision, transformers, onnx, onnxsim

The nets are small, with random weights, and exported by PyTorch's older exporter; some also by the newer one,
if it writes another graph. The rest is as in heads.py. The map "act" is the output of the module named here,
without the tokens before and after those of the photo. Writes tests/reference/heads.
"""

import contextlib
import io
import sys
import warnings

import numpy as np
import onnx
import onnxsim
import torch
import torch.nn.functional as F
from torch import nn

from heads import CLASSES, OUT, SIDE, finished, keep, photos

warnings.filterwarnings("ignore")


class Logits(nn.Module):
    """A model of transformers that returns its logits as a tensor."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).logits


def timm_vit(**changes):
    from timm.models.vision_transformer import VisionTransformer

    small = dict(img_size=SIDE, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=CLASSES)
    return VisionTransformer(**{**small, **changes})


def distilled():
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(
        img_size=SIDE, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=CLASSES
    )


def torchvision_vit():
    from torchvision.models import VisionTransformer

    net = VisionTransformer(SIDE, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES)
    nn.init.normal_(net.heads.head.weight, std=0.3)
    return net


def hugging_vit():
    import transformers as t

    config = t.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=SIDE,
        patch_size=8, num_labels=CLASSES,
    )
    return Logits(t.ViTForImageClassification(config))


def hugging_dino():
    import transformers as t

    config = t.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=8,
        num_labels=CLASSES,
    )
    return Logits(t.Dinov2ForImageClassification(config))


def timm_swin(*stages):
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=SIDE, patch_size=4, embed_dim=8, depths=stages, num_heads=(2, 2), window_size=4, mlp_ratio=2,
        num_classes=CLASSES,
    )


def torchvision_swin():
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 8, [2], [2], [4, 4], mlp_ratio=2, num_classes=CLASSES)


def hugging_swin():
    import transformers as t

    config = t.SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=8, depths=[2], num_heads=[2], window_size=4, mlp_ratio=2,
        num_labels=CLASSES,
    )
    return Logits(t.SwinForImageClassification(config))


def convnext():
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 8, 12, 16), patch_size=1)


def torchvision_convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=CLASSES)


class Moved(nn.Module):
    """A ViT that moves the tokens before those of the photo: the last `after` of them come after it. The scores
    come from the tokens at `read`."""

    def __init__(self, after, before, read):
        super().__init__()
        self.net = timm_vit(reg_tokens=before + after - 1)
        self.before, self.read = before, read

    def forward(self, x):
        net = self.net
        x = net._pos_embed(net.patch_embed(x))
        count = net.num_prefix_tokens
        x = torch.cat([x[:, : self.before], x[:, count:], x[:, self.before : count]], 1)
        x = net.norm(net.blocks(x))
        return net.head(torch.cat([x[:, part] for part in self.read], 1).mean(1))


class MobileViT(nn.Module):
    """A MobileViT block between convolutions."""

    def __init__(self):
        super().__init__()
        from timm.models.mobilevit import MobileVitBlock

        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 4, 1), nn.SiLU())
        self.block = MobileVitBlock(12, 12, transformer_dim=16, transformer_depth=1, num_heads=2, patch_size=2)
        self.last = nn.Sequential(nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), nn.SiLU())
        self.fc = nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.fc(self.last(self.block(self.stem(x))).mean((2, 3)))


# name: (net, the module whose output is shown, tokens before the photo's, its axes as batch, channels, rows)
CLS = ("blocks.1.norm1", 1)
NETS = {
    "vit": (timm_vit, *CLS),
    "vit_registers": (lambda: timm_vit(reg_tokens=2, init_values=0.5), "blocks.1.norm1", 3),
    "vit_mean": (lambda: timm_vit(global_pool="avg"), "blocks.1", 1),
    "vit_mean_all": (lambda: timm_vit(global_pool="avg", class_token=False, fc_norm=False), "norm", 0),
    "vit_attention_pool": (lambda: timm_vit(global_pool="map", class_token=False), "norm", 0),
    "deit": (distilled, "blocks.1.norm1", 2),
    "vit_torchvision": (torchvision_vit, "encoder.layers.encoder_layer_1.ln_1", 1),
    "vit_hugging": (hugging_vit, "net.vit.layers.1.layernorm_before", 1),
    "dino_hugging": (hugging_dino, "net.dinov2.layernorm", 1),
    "swin_one_stage": (lambda: timm_swin(2), "norm", None),
    "swin": (lambda: timm_swin(2, 1), "norm", None),
    "swin_torchvision": (torchvision_swin, "norm", None),
    "swin_hugging": (hugging_swin, "net.swin.layernorm", 0),
    "convnext": (convnext, "stages.3", None),
    "convnext_torchvision": (torchvision_convnext, "features.3", None),
    "mobilevit": (MobileViT, "last", None),
    "vit_class_last": (lambda: Moved(1, 0, [slice(-1, None)]), "net.blocks.1.norm1", 0),
    "vit_registers_last": (lambda: Moved(3, 0, [slice(0, 16)]), "net.norm", 0),
    "vit_both_sides": (lambda: Moved(2, 1, [slice(0, 1)]), "net.blocks.1.norm1", 1),
    "refused_vit_both_ends": (lambda: Moved(1, 1, [slice(0, 1), slice(-1, None)]), "net.blocks.1.norm1", 1),
}
BOTH = ("vit", "vit_torchvision", "vit_hugging", "deit", "convnext", "mobilevit")
# Nets whose files are several times larger without onnxsim.
SIMPLIFIED = ("swin_one_stage", "swin_hugging")
# Nets for which the older exporter writes a file several times larger.
DYNAMO = ("swin", "swin_torchvision")


def stir(net, seed):
    """Gives all parameters and statistics random values, those of norms included."""
    g = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        if p.dim() > 1:
            p.data.copy_(torch.randn(p.shape, generator=g) * (1.2 / p[0].numel() ** 0.5))
        elif name.endswith("weight") or "gamma" in name or "lambda" in name:
            p.data.copy_(torch.rand(p.shape, generator=g) * 0.8 + 0.6)
        else:
            p.data.copy_(torch.rand(p.shape, generator=g) - 0.5)
    for name, b in net.named_buffers():
        if name.endswith("running_mean"):
            b.copy_(torch.rand(b.shape, generator=g) - 0.5)
        if name.endswith("running_var"):
            b.copy_(torch.rand(b.shape, generator=g) * 0.5 + 0.2)
    return net.eval()


def as_map(t, before):
    """[1, channels, rows, columns], of tokens or of a map whose channels come last."""
    if t.dim() == 3:
        # CLIP's tokens come before the batch.
        t = (t if t.shape[0] == 1 else t.transpose(0, 1))[:, before:]
        side = int(t.shape[1] ** 0.5)
        t = t[:, : side * side]
        return t.transpose(1, 2).reshape(1, t.shape[2], side, side)
    return t.permute(0, 3, 1, 2) if t.shape[2] == t.shape[1] != t.shape[3] else t


def export(net, path, dynamo, simplified):
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        torch.onnx.export(
            net, (torch.zeros(1, 3, SIDE, SIDE),), path, input_names=["image"], output_names=["scores"],
            opset_version=18 if dynamo else 17, dynamo=dynamo, external_data=False,
        )
    model = onnx.load(path)
    if simplified:
        model, _ = onnxsim.simplify(model)
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.graph.value_info[:]
    onnx.save(model, path)


def kept_maps(net, shown, before, activation):
    """For each photo the probabilities, and every class's maps by the gradient of its probability and its
    logit."""
    net, kept = net.double(), {}
    net.get_submodule(shown).register_forward_hook(lambda m, i, o: kept.__setitem__("act", o))
    found = {"probabilities": [], "act": [], "logit": []}
    for photo in photos():
        z = net(photo.requires_grad_())[0]
        p = activation(z)
        found["probabilities"].append(p.detach().numpy())
        for key, scores in (("act", p), ("logit", z)):
            maps = []
            for score in scores:
                (g,) = torch.autograd.grad(score, kept["act"], retain_graph=True)
                maps.append(finished(as_map(kept["act"], before), as_map(g, before)))
            found[key].append(np.stack(maps))
    return found


class Labels(nn.Module):
    """A net with forty labels, each with a probability of its own."""

    def __init__(self):
        super().__init__()
        self.last = nn.Sequential(nn.Conv2d(3, 12, 3, 4, 1), nn.SiLU(), nn.Conv2d(12, 24, 1), nn.ReLU())
        self.norm, self.fc = nn.LayerNorm(24), nn.Linear(24, 40)

    def forward(self, x):
        return torch.sigmoid(self.fc(self.norm(self.last(x).mean((2, 3)))))


# Nets of forty classes, of which only the likeliest have maps.
MANY = {
    "vit": (lambda: timm_vit(num_classes=40), *CLS),
    "labels": (Labels, "last", None),
}


def write_many(name, seed):
    make, shown, before = MANY[name]
    torch.manual_seed(seed)
    net = stir(make(), seed)
    folder = OUT.parent / "likeliest" / name
    folder.mkdir(parents=True, exist_ok=True)
    export(net, folder / "model.onnx", False, False)
    # The labels' probabilities are the net's own; the logit is that of the sigmoid.
    if name == "labels":
        net.forward = lambda x: net.fc(net.norm(net.last(x).mean((2, 3))))
    keep(folder, kept_maps(net, shown, before, torch.sigmoid if name == "labels" else lambda z: F.softmax(z, 0)))


def write(name, seed):
    make, shown, before = NETS[name]
    torch.manual_seed(seed)
    net = stir(make(), seed)
    ways = {name: name in DYNAMO, **({f"{name}_dynamo": True} if name in BOTH else {})}
    for way, dynamo in ways.items():
        (OUT / way).mkdir(parents=True, exist_ok=True)
        export(net, OUT / way / "model.onnx", dynamo, name in SIMPLIFIED)
    found = kept_maps(net, shown, before, lambda z: F.softmax(z, 0))
    del found["logit"]
    for way in ways:
        keep(OUT / way, found)
    print(name, np.round(found["probabilities"][0], 3))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, name in enumerate(NETS):
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            write(name, 20261127 + number)
    for number, name in enumerate(MANY):
        if len(sys.argv) == 1 or f"many_{name}" in sys.argv[1:]:
            write_many(name, 20261227 + number)
