"""Who is nearer to the truth: cellnet and ONNX Runtime against the same graph in double precision.

    python truth.py CELL_BINARY MODEL.onnx ... [--algorithms all|f2|direct]

Where two engines in single precision differ, the difference says nothing about which is off. Here every
operator is computed by PyTorch in float64 and both are held against that: outputs named `prob…` by their
largest difference, all others relative to the largest value. Needs `numpy`, `onnx`, `onnxruntime`, `torch`.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from compare import make_input, runtime


def conv(x, w, b=None, *, pads=(0, 0, 0, 0), strides=(1, 1), group=1, dilations=(1, 1), **_):
    x = F.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    return F.conv2d(x, w, b, stride=strides, groups=group, dilation=dilations)


def pool(kind):
    def run(x, *, kernel_shape, strides=(1, 1), pads=(0, 0, 0, 0), **_):
        fill = float("-inf") if kind is F.max_pool2d else 0.0
        return kind(F.pad(x, (pads[1], pads[3], pads[0], pads[2]), value=fill), kernel_shape, strides)
    return run


def gemm(a, b, c=None, *, transA=0, transB=0, alpha=1.0, beta=1.0, **_):
    y = alpha * (a.T if transA else a) @ (b.T if transB else b)
    return y if c is None else y + beta * c


OPERATORS = {
    "Add": lambda a, b: a + b,
    "And": lambda a, b: a * b,
    "AveragePool": pool(F.avg_pool2d),
    "BatchNormalization": lambda x, s, b, m, v, *, epsilon=1e-5, **_: F.batch_norm(x, m, v, s, b, eps=epsilon),
    "Cast": lambda x, **_: x,
    "Clip": lambda x, low, high: torch.clamp(x, float(low), float(high)),
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Conv": conv,
    "Flatten": lambda x, *, axis=1: x.flatten(axis),
    "Gemm": gemm,
    "Greater": lambda a, b: (a > b).double(),
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0, 1),
    "HardSwish": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    "Less": lambda a, b: (a < b).double(),
    "MatMul": lambda a, b: a @ b,
    "Sub": lambda a, b: a - b,
    "Div": lambda a, b: a / b,
    "Identity": lambda x: x,
    "MaxPool": pool(F.max_pool2d),
    "Mul": lambda a, b: a * b,
    "ReduceMean": lambda x, axes, *, keepdims=1, **_: x.mean(tuple(axes.int().tolist()), bool(keepdims)),
    "Relu": torch.relu,
    "Reshape": lambda x, shape, **_: x.reshape(shape.int().tolist()),
    "Sigmoid": torch.sigmoid,
    "Softmax": lambda x, *, axis=-1: torch.softmax(x, axis),
    "Transpose": lambda x, *, perm: x.permute(*perm),
}


def truth(path, value):
    """Outputs of the graph by name, in double precision."""
    graph = onnx.load(path).graph
    values = {i.name: torch.from_numpy(numpy_helper.to_array(i).astype(np.float64)) for i in graph.initializer}
    values[graph.input[0].name] = torch.from_numpy(value.astype(np.float64))
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] for name in node.input]
        values[node.output[0]] = OPERATORS[node.op_type](*inputs, **attributes)
    return {o.name: values[o.name].numpy() for o in graph.output}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cell")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--algorithms", default="all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            cell = Path(folder) / "model.cell"
            subprocess.run([args.cell, "pack", model, str(cell), args.algorithms], check=True,
                           stdout=subprocess.DEVNULL)
            session = runtime(model, 1)
            name, value, path = make_input(session, folder)
            subprocess.run([args.cell, "run", str(cell), str(path), folder], check=True)
            exact = truth(model, value)
            theirs = dict(zip((o.name for o in session.get_outputs()), session.run(None, {name: value})))
            for output, want in exact.items():
                own = np.fromfile(Path(folder) / f"{output}.bin", np.float32).reshape(want.shape)
                scale = 1 if "prob" in output else np.abs(want).max()
                off = {e: np.abs(got - want).max() / scale
                       for e, got in (("cellnet", own), ("onnxruntime", theirs[output]))}
                print(f"{Path(model).stem} {output}: cellnet off by {off['cellnet']:.1e}, "
                      f"onnxruntime by {off['onnxruntime']:.1e}; largest value {np.abs(want).max():.3g}")


if __name__ == "__main__":
    main()
