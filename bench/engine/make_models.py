"""Writes ONNX classifiers of real architectures with seeded random weights, for measuring engines.

    python make_models.py OUT_FOLDER [NAME ...]      such as efficientnetv2-s, efficientnetv2-s@0.5

Shapes, strides, activations and squeeze-and-excite are the published ones; weights are He-scaled normal
numbers from one seed per model, so that activations neither vanish nor explode. Graphs have the form of
PyTorch's exporter (NCHW, BatchNormalization folded or not as noted), except `*-nhwc`, which has the form of
tf2onnx for Keras models: NHWC with Transpose around every convolution.

Every model ends in logits, softmax, and a `cam` output like the one `skincell model prepare` adds for the
target "activation" and one dense layer: a Gemm of the dense layer's weights with the last feature map.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    def __init__(self, name, size, seed, fold=True, nhwc=False):
        self.rng = np.random.default_rng(seed)
        self.name, self.size, self.fold, self.nhwc = name, size, fold, nhwc
        self.nodes, self.inits, self.count = [], [], 0
        shape = [1, size, size, 3] if nhwc else [1, 3, size, size]
        self.input = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        self.channels = {"input": 3}

    def fresh(self, stem):
        self.count += 1
        return f"{stem}_{self.count}"

    def const(self, value, stem="w"):
        name = self.fresh(stem)
        self.inits.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind, inputs, **attributes):
        out = self.fresh(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def transposed(self, x, perm):
        return self.op("Transpose", [x], perm=perm) if self.nhwc else x

    def conv(self, x, out, k, s=1, groups=1, act=None, bn=True, gain=2.0, pad=None):
        cin = self.channels[x]
        fan = cin // groups * k * k
        w = self.rng.standard_normal((out, cin // groups, k, k)) * np.sqrt(gain / fan)
        b = self.rng.standard_normal(out) * 0.1
        pad = k // 2 if pad is None else pad
        inputs = [x, self.const(w.astype(np.float32))]
        if self.fold or not bn:
            inputs.append(self.const(b.astype(np.float32), "b"))
        y = self.transposed(x, [0, 3, 1, 2])
        inputs[0] = y
        y = self.op("Conv", inputs, kernel_shape=[k, k], strides=[s, s], pads=[pad] * 4, group=groups,
                    dilations=[1, 1])
        y = self.transposed(y, [0, 2, 3, 1])
        self.channels[y] = out
        if bn and not self.fold:
            y = self.bn(y)
        return self.act(y, act)

    def bn(self, x):
        c = self.channels[x]
        parts = [self.rng.uniform(0.8, 1.2, c), self.rng.standard_normal(c) * 0.1,
                 self.rng.standard_normal(c) * 0.1, self.rng.uniform(0.8, 1.2, c)]
        names = [self.const(p.astype(np.float32), "bn") for p in parts]
        y = self.op("BatchNormalization", [x, *names], epsilon=1e-5)
        self.channels[y] = c
        return y

    def act(self, x, act):
        if act is None:
            return x
        c = self.channels[x]
        if act == "silu":
            y = self.op("Mul", [x, self.op("Sigmoid", [x])])
        elif act == "relu":
            y = self.op("Relu", [x])
        elif act == "relu6":
            y = self.op("Clip", [x, self.const(np.float32(0)), self.const(np.float32(6))])
        elif act == "hswish":
            y = self.op("HardSwish", [x])
        else:
            raise ValueError(act)
        self.channels[y] = c
        return y

    def squeeze(self, x, mid, act, gate="Sigmoid"):
        c = self.channels[x]
        axes = [1, 2] if self.nhwc else [2, 3]
        g = self.op("ReduceMean", [x, self.const(np.array(axes, np.int64))], keepdims=1)
        self.channels[g] = c
        g = self.conv(g, mid, 1, act=act, bn=False)
        g = self.conv(g, c, 1, bn=False, gain=1.0)
        if gate == "HardSigmoid":
            g = self.op("HardSigmoid", [g], alpha=1 / 6, beta=0.5)
        else:
            g = self.op("Sigmoid", [g])
        y = self.op("Mul", [x, g])
        self.channels[y] = c
        return y

    def add(self, a, b):
        y = self.op("Add", [a, b])
        self.channels[y] = self.channels[a]
        return y

    def dense(self, x, cin, out):
        w = (self.rng.standard_normal((out, cin)) / np.sqrt(cin)).astype(np.float32)
        b = (self.rng.standard_normal(out) * 0.1).astype(np.float32)
        held = self.const(w, "dense")
        y = self.op("Gemm", [x, held, self.const(b, "b")], transB=1)
        return y, held

    def finish(self, x, classes, folder, hidden=None, side=None):
        c = self.channels[x]
        axes = self.const(np.array([1, 2] if self.nhwc else [2, 3], np.int64))
        g = self.op("ReduceMean", [x, axes], keepdims=1)
        flat = self.op("Flatten" if not self.nhwc else "Reshape",
                       [g] + ([self.const(np.array([1, -1], np.int64))] if self.nhwc else []))
        if hidden is not None:
            flat, _ = self.dense(flat, c, hidden)
            self.channels[flat] = hidden
            flat = self.act(flat, "hswish")
            logits, _ = self.dense(flat, hidden, classes)
        else:
            logits, held = self.dense(flat, c, classes)
        self.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        self.nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, classes])
                   for n in ("logits", "probabilities")]
        if hidden is None:
            shape = [side * side, c] if self.nhwc else [c, side * side]
            f = self.op("Reshape", [x, self.const(np.array(shape, np.int64))])
            m = self.op("Gemm", [held, f], transB=int(self.nhwc))
            shape = self.const(np.array([1, classes, side, side], np.int64))
            self.nodes.append(helper.make_node("Reshape", [m, shape], ["cam"]))
            outputs.append(helper.make_tensor_value_info("cam", TensorProto.FLOAT,
                                                         [1, classes, side, side]))
        graph = helper.make_graph(self.nodes, self.name, [self.input], outputs, self.inits)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 9
        onnx.checker.check_model(model)
        onnx.save(model, Path(folder) / f"{self.name}.onnx")
        weights = sum(int(np.prod(i.dims)) for i in self.inits)
        print(f"{self.name}: {len(self.nodes)} nodes, {weights / 1e6:.2f} M weights")


def mbconv(b, x, out, k, s, expand, se, act, se_act=None, gate="Sigmoid", se_from="in"):
    cin = b.channels[x]
    y = x if expand == cin else b.conv(x, expand, 1, act=act)
    y = b.conv(y, expand, k, s, groups=expand, act=act)
    if se:
        y = b.squeeze(y, se, se_act or act, gate)
    y = b.conv(y, out, 1, gain=1.0)
    return b.add(y, x) if s == 1 and cin == out else y


def fused(b, x, out, k, s, ratio, act):
    cin = b.channels[x]
    if ratio == 1:
        y = b.conv(x, out, k, s, act=act)
    else:
        y = b.conv(x, cin * ratio, k, s, act=act)
        y = b.conv(y, out, 1, gain=1.0)
    return b.add(y, x) if s == 1 and cin == out else y


def efficientnetv2_s(folder, name="efficientnetv2-s", nhwc=False, width=1.0):
    """`width` is the share of channels, in steps of 8; weights grow with its square."""
    b = Builder(name, 300, 1, nhwc=nhwc)
    of = lambda channels: max(8, round(channels * width / 8) * 8)
    x = b.conv("input", of(24), 3, 2, act="silu")
    table = [("f", 1, of(24), 2, 1), ("f", 4, of(48), 4, 2), ("f", 4, of(64), 4, 2),
             ("m", 4, of(128), 6, 2), ("m", 6, of(160), 9, 1), ("m", 6, of(256), 15, 2)]
    for kind, ratio, out, n, s in table:
        for i in range(n):
            cin = b.channels[x]
            stride = s if i == 0 else 1
            if kind == "f":
                x = fused(b, x, out, 3, stride, ratio, "silu")
            else:
                x = mbconv(b, x, out, 3, stride, cin * ratio, cin // 4, "silu")
    x = b.conv(x, of(1280), 1, act="silu")
    b.finish(x, 7, folder, side=10)


def efficientnet_b0(folder):
    b = Builder("efficientnet-b0", 224, 2)
    x = b.conv("input", 32, 3, 2, act="silu")
    table = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
             (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]
    for ratio, out, n, s, k in table:
        for i in range(n):
            cin = b.channels[x]
            x = mbconv(b, x, out, k, s if i == 0 else 1, cin * ratio, max(1, cin // 4), "silu")
    x = b.conv(x, 1280, 1, act="silu")
    b.finish(x, 1000, folder, side=7)


def mobilenet_v2(folder):
    b = Builder("mobilenet-v2", 224, 3)
    x = b.conv("input", 32, 3, 2, act="relu6")
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
             (6, 320, 1, 1)]
    for ratio, out, n, s in table:
        for i in range(n):
            x = mbconv(b, x, out, 3, s if i == 0 else 1, b.channels[x] * ratio, 0, "relu6")
    x = b.conv(x, 1280, 1, act="relu6")
    b.finish(x, 1000, folder, side=7)


def mobilenet_v3_large(folder):
    b = Builder("mobilenet-v3-large", 224, 4)
    x = b.conv("input", 16, 3, 2, act="hswish")
    table = [(3, 16, 16, 0, "relu", 1), (3, 64, 24, 0, "relu", 2), (3, 72, 24, 0, "relu", 1),
             (5, 72, 40, 24, "relu", 2), (5, 120, 40, 32, "relu", 1), (5, 120, 40, 32, "relu", 1),
             (3, 240, 80, 0, "hswish", 2), (3, 200, 80, 0, "hswish", 1), (3, 184, 80, 0, "hswish", 1),
             (3, 184, 80, 0, "hswish", 1), (3, 480, 112, 120, "hswish", 1),
             (3, 672, 112, 168, "hswish", 1), (5, 672, 160, 168, "hswish", 2),
             (5, 960, 160, 240, "hswish", 1), (5, 960, 160, 240, "hswish", 1)]
    for k, expand, out, se, act, s in table:
        x = mbconv(b, x, out, k, s, expand, se, act, se_act="relu", gate="HardSigmoid")
    x = b.conv(x, 960, 1, act="hswish")
    b.finish(x, 1000, folder, hidden=1280)


def resnet50(folder):
    b = Builder("resnet-50", 224, 5, fold=False)
    x = b.conv("input", 64, 7, 2, act="relu")
    y = b.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    b.channels[y] = 64
    x = y
    for mid, n, s in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for i in range(n):
            stride = s if i == 0 else 1
            y = b.conv(x, mid, 1, act="relu")
            y = b.conv(y, mid, 3, stride, act="relu")
            y = b.conv(y, mid * 4, 1, gain=0.5)
            short = x if i else b.conv(x, mid * 4, 1, stride, gain=1.0)
            x = b.act(b.add(y, short), "relu")
    b.finish(x, 1000, folder, side=7)


def regnety_400mf(folder):
    b = Builder("regnety-400mf", 224, 6)
    x = b.conv("input", 32, 3, 2, act="relu")
    for out, n in [(48, 1), (104, 3), (208, 6), (440, 6)]:
        for i in range(n):
            cin, s = b.channels[x], 2 if i == 0 else 1
            y = b.conv(x, out, 1, act="relu")
            y = b.conv(y, out, 3, s, groups=out // 8, act="relu")
            y = b.squeeze(y, cin // 4, "relu")
            y = b.conv(y, out, 1, gain=0.5)
            short = b.conv(x, out, 1, s, gain=1.0) if i == 0 else x
            x = b.act(b.add(y, short), "relu")
    b.finish(x, 1000, folder, side=7)


def densenet121(folder):
    b = Builder("densenet-121", 224, 7, fold=False)
    x = b.conv("input", 64, 7, 2, act="relu")
    y = b.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    b.channels[y] = 64
    x = y
    for block, n in enumerate([6, 12, 24, 16]):
        features = [x]
        for _ in range(n):
            joined = features[0]
            if len(features) > 1:
                joined = b.op("Concat", features, axis=1)
                b.channels[joined] = sum(b.channels[f] for f in features)
            y = b.act(b.bn(joined), "relu")
            y = b.conv(y, 128, 1, act="relu")
            features.append(b.conv(y, 32, 3, bn=False))
        x = b.op("Concat", features, axis=1)
        b.channels[x] = sum(b.channels[f] for f in features)
        x = b.act(b.bn(x), "relu")
        if block < 3:
            c = b.channels[x] // 2
            y = b.conv(x, c, 1, bn=False)
            x = b.op("AveragePool", [y], kernel_shape=[2, 2], strides=[2, 2])
            b.channels[x] = c
    b.finish(x, 1000, folder, side=7)


MODELS = {
    "efficientnetv2-s": efficientnetv2_s,
    "efficientnetv2-s-nhwc": lambda f: efficientnetv2_s(f, "efficientnetv2-s-nhwc", True),
    "efficientnet-b0": efficientnet_b0,
    "mobilenet-v2": mobilenet_v2,
    "mobilenet-v3-large": mobilenet_v3_large,
    "resnet-50": resnet50,
    "regnety-400mf": regnety_400mf,
    "densenet-121": densenet121,
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        kind, _, width = name.partition("@")
        if width:
            MODELS[kind](folder, name=name, width=float(width))
        else:
            MODELS[kind](folder)
