"""Writes seeds for the target `prepare`: small classifiers with what exporters write. Needs `onnx`.

    python3 fuzz/seeds.py
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = pathlib.Path(__file__).resolve().parent / "corpus" / "prepare"


def weights(name, *shape):
    values = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return numpy_helper.from_array(values, name)


def classifier(name, activation, norm=False, hidden=False, softmax=True, transposed=False):
    node, nodes, tensors = helper.make_node, [], [weights("k", 4, 3, 3, 3), weights("b", 4)]
    x = "photo"
    if transposed:
        nodes.append(node("Transpose", [x], ["t"], perm=[0, 3, 1, 2]))
        x = "t"
    nodes.append(node("Conv", [x, "k", "b"], ["z"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
    x = "z"
    if norm:
        tensors += [weights(n, 4) for n in ("scale", "shift", "mean")] + [numpy_helper.from_array(np.ones(4, np.float32), "var")]
        nodes.append(node("BatchNormalization", [x, "scale", "shift", "mean", "var"], ["n"]))
        x = "n"
    if activation == "swish":
        nodes += [node("Sigmoid", [x], ["s"]), node("Mul", [x, "s"], ["a"])]
    else:
        nodes.append(node(activation, [x], ["a"]))
    nodes += [node("GlobalAveragePool", ["a"], ["g"]), node("Flatten", ["g"], ["f"])]
    x = "f"
    if hidden:
        tensors += [weights("h", 4, 4), weights("c", 4)]
        nodes += [node("Gemm", [x, "h", "c"], ["d"]), node("Relu", ["d"], ["e"])]
        x = "e"
    tensors += [weights("w", 4, 3), weights("v", 3)]
    nodes.append(node("Gemm", [x, "w", "v"], ["logits"]))
    if softmax:
        nodes.append(node("Softmax", ["logits"], ["scores"], axis=-1))
    shape = [1, 8, 8, 3] if transposed else [1, 3, 8, 8]
    graph = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info("photo", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores" if softmax else "logits", TensorProto.FLOAT, [1, 3])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    (FOLDER / name).write_bytes(model.SerializeToString())


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    classifier("relu", "Relu", softmax=False)
    classifier("swish", "swish", norm=True)
    classifier("hidden", "HardSwish", hidden=True)
    classifier("transposed", "Relu", norm=True, transposed=True)
