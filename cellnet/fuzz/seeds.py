"""Writes seeds for the fuzzer: the plans of a few small graphs, and one whole file.

    python seeds.py CELL_BINARY CORPUS_FOLDER

Uses the builder in `bench/engine/make_models.py` and needs the same packages.
"""

import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "engine"))
from make_models import Builder, fused, mbconv  # noqa: E402


# Bytes of the largest whole file: the fuzzer makes none longer than its longest seed.
LARGEST = 32 * 1024


def tiny(folder, name, build, nhwc=False):
    b = Builder(name, 12, 1, nhwc=nhwc, fold=nhwc)
    x = build(b, b.conv("input", 8, 3, 2, act="silu"))
    b.finish(x, 5, folder, side=6)


def attention(b, x):
    """Layer norm and two heads of attention over the pixels of an 8x6x6 map, after one constant token."""
    ints = lambda *values: b.const(np.array(values, np.int64))
    floats = lambda *shape: b.const(b.rng.standard_normal(shape).astype(np.float32))
    tokens = b.op("Transpose", [b.op("Reshape", [x, ints(1, 8, 36)])], perm=[0, 2, 1])
    tokens = b.op("Concat", [floats(1, 1, 8), tokens], axis=1)
    tokens = b.op("LayerNormalization", [tokens, floats(8), floats(8)], axis=-1)
    joined = b.op("Reshape", [b.op("MatMul", [tokens, floats(8, 24)]), ints(1, 37, 3, 2, 4)])
    joined = b.op("Transpose", [joined], perm=[2, 0, 3, 1, 4])
    query, key, value = (b.op("Gather", [joined, ints(i)], axis=0) for i in range(3))
    scores = b.op("MatMul", [query, b.op("Transpose", [key], perm=[0, 1, 2, 4, 3])])
    shares = b.op("Softmax", [b.op("Mul", [scores, b.const(np.float32(0.5))])], axis=-1)
    heads = b.op("Transpose", [b.op("MatMul", [shares, value])], perm=[0, 1, 3, 2, 4])
    first = b.op("Gather", [b.op("Reshape", [heads, ints(1, 37, 8)]), ints(0)], axis=1)
    y = b.op("Add", [x, b.op("Reshape", [first, ints(1, 8, 1, 1)])])
    b.channels[y] = 8
    return y


def windows(b, x):
    """Two heads of attention within four windows of 3x3 pixels, moved by one, with a summand for each head."""
    ints = lambda *values: b.const(np.array(values, np.int64))
    floats = lambda *shape: b.const(b.rng.standard_normal(shape).astype(np.float32))
    y = b.op("Transpose", [x], perm=[0, 2, 3, 1])
    for axis in (1, 2):
        last = b.op("Slice", [y, ints(1), ints(6), ints(axis)])
        y = b.op("Concat", [last, b.op("Slice", [y, ints(0), ints(1), ints(axis)])], axis=axis)
    y = b.op("Transpose", [b.op("Reshape", [y, ints(1, 2, 3, 2, 3, 8)])], perm=[0, 1, 3, 2, 4, 5])
    joined = b.op("MatMul", [b.op("Reshape", [y, ints(4, 9, 8)]), floats(8, 24)])
    joined = b.op("Transpose", [b.op("Reshape", [joined, ints(4, 9, 3, 2, 4)])], perm=[2, 0, 3, 1, 4])
    query, key, value = (b.op("Gather", [joined, ints(i)], axis=0) for i in range(3))
    scores = b.op("MatMul", [query, b.op("Transpose", [key], perm=[0, 1, 2, 4, 3])])
    shares = b.op("Softmax", [b.op("Add", [scores, floats(2, 9, 9)])], axis=-1)
    heads = b.op("Transpose", [b.op("MatMul", [shares, value])], perm=[0, 1, 3, 2, 4])
    y = b.op("Transpose", [b.op("Reshape", [heads, ints(1, 2, 2, 3, 3, 8)])], perm=[0, 1, 3, 2, 4, 5])
    y = b.op("Reshape", [y, ints(1, 6, 6, 8)])
    for axis in (1, 2):
        last = b.op("Slice", [y, ints(5), ints(6), ints(axis)])
        y = b.op("Concat", [last, b.op("Slice", [y, ints(0), ints(5), ints(axis)])], axis=axis)
    y = b.op("Transpose", [y], perm=[0, 3, 1, 2])
    b.channels[y] = 8
    return y


def sliced(b, x):
    y = b.op("Slice", [x, *(b.const(np.array([n], np.int64)) for n in (3, 8, 1))])
    b.channels[y] = 5
    return y


def shuffled(b, x):
    """One channel of each of two groups in turn, and rectifiers with a slope below zero."""
    ints = lambda *values: b.const(np.array(values, np.int64))
    groups = b.op("Transpose", [b.op("Reshape", [x, ints(1, 2, 4, 6, 6)])], perm=[0, 2, 1, 3, 4])
    y = b.op("LeakyRelu", [b.op("Reshape", [groups, ints(1, 8, 6, 6)])], alpha=0.1)
    y = b.op("PRelu", [y, b.const(b.rng.standard_normal((8, 1, 1)).astype(np.float32))])
    b.channels[y] = 8
    return y


def rounded(b, x):
    """A convolution on bytes, in the form QDQ."""
    step, zero = b.const(np.float32(0.05)), b.const(np.uint8(128))
    y = b.op("DequantizeLinear", [b.op("QuantizeLinear", [x, step, zero]), step, zero])
    weights = b.const(b.rng.integers(-127, 128, (16, 8, 3, 3)).astype(np.int8))
    scales, zeros = b.const(np.full(16, 0.01, np.float32)), b.const(np.zeros(16, np.int8))
    weights = b.op("DequantizeLinear", [weights, scales, zeros], axis=0)
    y = b.op("Conv", [y, weights], kernel_shape=[3, 3], pads=[1] * 4)
    b.channels[y] = 16
    return y


def main():
    binary, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    graphs = {
        "dense": lambda b, x: b.conv(x, 13, 3, act="relu"),
        "winograd": lambda b, x: b.conv(b.conv(x, 16, 3, act="relu6"), 24, 3, act="hswish"),
        "squeezed": lambda b, x: mbconv(b, x, 8, 5, 1, 24, 4, "silu"),
        "fused": lambda b, x: fused(b, x, 8, 3, 1, 2, "silu"),
        "attention": attention,
        "windows": windows,
        "sliced": sliced,
        "shuffled": shuffled,
        "rounded": rounded,
        "half": lambda b, x: b.conv(b.conv(x, 64, 1, act="relu"), 64, 3, act="relu"),
        "grouped": lambda b, x: b.conv(x, 16, 3, groups=2, act="relu"),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, build in graphs.items():
            tiny(folder, name, build, nhwc=name == "dense")
            onnx, cell = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}.cell"
            precision = ["all", "half"] if name == "half" else []
            subprocess.run([binary, "pack", onnx, cell, *precision], check=True)
            data = cell.read_bytes()
            (length,) = struct.unpack_from("<Q", data, 16)
            (corpus / f"{name}.plan").write_bytes(data[64:64 + length])
            if len(data) <= LARGEST:
                (corpus / f"{name}.cell").write_bytes(data)


if __name__ == "__main__":
    main()
