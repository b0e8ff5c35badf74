"""Compares cellnet and ONNX Runtime with the same graph in double precision.

    python truth.py CELL_BINARY MODEL.onnx ... [--algorithms all|f2|direct] [--keep]

A difference between two engines in single precision does not show which one is inaccurate. Here NumPy
computes every operator in float64 as the reference: probabilities are compared by their largest difference,
maps relative to their largest value. Exits with 1 if cellnet's error exceeds the sum of ONNX Runtime's own
error and the promised difference. Needs `numpy`, `onnx` and `onnxruntime`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper

from compare import CAM, PROBABILITY, make_input, name_of, runtime, softmax
from results import Results


def padded(x, pads, fill=0.0):
    return np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)


def conv(x, w, b=None, *, pads=(0, 0, 0, 0), strides=(1, 1), group=1, **_):
    x = padded(x, pads)[0]
    outputs, inputs, height, width = w.shape
    rows, columns = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:], (height, width), strides))
    w = w.reshape(group, outputs // group, inputs, height, width)
    y = np.zeros((group, outputs // group, rows * columns))
    for dy in range(height):
        for dx in range(width):
            tap = x[:, dy:dy + rows * strides[0]:strides[0], dx:dx + columns * strides[1]:strides[1]]
            tap = tap[:, :rows, :columns].reshape(group, inputs, -1)
            if inputs == 1 and outputs == group:
                y += w[:, :, :, dy, dx] * tap
            else:
                y += w[..., dy, dx] @ tap
    y = y.reshape(1, outputs, rows, columns)
    return y if b is None else y + b.reshape(1, -1, 1, 1)


def pool(reduce, fill):
    def run(x, *, kernel_shape, strides=(1, 1), pads=(0, 0, 0, 0), **_):
        windows = sliding_window_view(padded(x, pads, fill), kernel_shape, (2, 3))
        return reduce(windows[:, :, ::strides[0], ::strides[1]], axis=(4, 5))
    return run


def gemm(a, b, c=None, *, transA=0, transB=0, alpha=1.0, beta=1.0, **_):
    y = alpha * (a.T if transA else a) @ (b.T if transB else b)
    return y if c is None else y + beta * c


def batch_norm(x, scale, bias, mean, variance, *, epsilon=1e-5, **_):
    scale = scale / np.sqrt(variance + epsilon)
    return x * scale.reshape(-1, 1, 1) + (bias - mean * scale).reshape(-1, 1, 1)


OPERATORS = {
    "Add": lambda a, b: a + b,
    "And": lambda a, b: a * b,
    "AveragePool": pool(np.mean, 0.0),
    "BatchNormalization": batch_norm,
    "Cast": lambda x, **_: x,
    "Clip": lambda x, low, high: np.clip(x, low, high),
    "Concat": lambda *xs, axis: np.concatenate(xs, axis),
    "Conv": conv,
    "Flatten": lambda x, *, axis=1: x.reshape(int(np.prod(x.shape[:axis])), -1),
    "Gemm": gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdims=True),
    "Greater": lambda a, b: (a > b).astype(np.float64),
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Less": lambda a, b: (a < b).astype(np.float64),
    "MatMul": lambda a, b: a @ b,
    "Sub": lambda a, b: a - b,
    "Div": lambda a, b: a / b,
    "Identity": lambda x: x,
    "MaxPool": pool(np.max, -np.inf),
    "Mul": lambda a, b: a * b,
    "ReduceMean": lambda x, axes, *, keepdims=1, **_: x.mean(tuple(int(a) for a in axes), keepdims=bool(keepdims)),
    "Relu": lambda x: np.maximum(x, 0),
    "Reshape": lambda x, shape, **_: x.reshape([int(s) or x.shape[i] for i, s in enumerate(shape)]),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softmax": lambda x, *, axis=-1: softmax(x),
    "Transpose": lambda x, *, perm: x.transpose(perm),
}


def truth(path, value):
    """Outputs of the graph by name, in double precision."""
    graph = onnx.load(path).graph
    values = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in graph.initializer}
    values[graph.input[0].name] = value.astype(np.float64)
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] for name in node.input]
        values[node.output[0]] = OPERATORS[node.op_type](*inputs, **attributes)
    return {o.name: values[o.name] for o in graph.output}


def distance(output, got, want):
    """The largest difference: of probabilities, or relative to the largest value of a map."""
    if output == "logits":
        return np.abs(softmax(got) - softmax(want)).max()
    return np.abs(got - want).max() / np.abs(want).max()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cell")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--algorithms", default="all")
    parser.add_argument("--keep", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    results = Results(args.keep)
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            cell = Path(folder) / "model.cell"
            subprocess.run([args.cell, "pack", model, str(cell), args.algorithms], check=True,
                           stdout=subprocess.DEVNULL)
            session = runtime(model, 1)
            name, value, path = make_input(session, folder)
            subprocess.run([args.cell, "run", str(cell), str(path), folder], check=True)
            exact = truth(model, value)
            theirs = dict(zip((o.name for o in session.get_outputs()), session.run(None, {name: value})))
            for output, words, limit in (("logits", "probabilities", PROBABILITY), ("cam", "cam", CAM)):
                if output not in exact:
                    continue
                want = exact[output]
                own = np.fromfile(Path(folder) / f"{output}.bin", np.float32).reshape(want.shape)
                off = distance(output, theirs[output], want)
                results.add("4", f"{name_of(model)}: {words}, off from double precision",
                            distance(output, own, want), limit + off, note=f"ONNX Runtime {off:.1e}")
    sys.exit(results.end())


if __name__ == "__main__":
    main()
