"""One small net in many variants of ONNX files: operator sets, exporters, precisions, inputs."""

import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from zoo_nets import torch_nets
from zoo_nets.look import Net, Seen, Tensor
from zoo_nets.served import CLASSES, photos

SIDE = 96


class Small(nn.Module):
    """A residual net as users write it by hand."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.first = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24))
        self.third = nn.Sequential(nn.Conv2d(24, 40, 3, 1, 1, bias=False), nn.BatchNorm2d(40), nn.ReLU())
        self.pool, self.drop, self.head = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.2), nn.Linear(40, CLASSES)

    def forward(self, x):
        x = self.first(self.stem(x))
        x = self.third(torch.relu(x + self.second(x)))
        return self.head(self.drop(self.pool(x).flatten(1)))


def put_before(model, nodes, constants, value):
    """Puts nodes in front of the graph; `value` is the new input."""
    old = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["normalised" if name == old else name for name in node.input]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    for index, node in enumerate(nodes):
        model.graph.node.insert(index, node)
    del model.graph.input[:]
    model.graph.input.append(value)


def channels_last(model):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, SIDE, SIDE, 3])
    put_before(model, [helper.make_node("Transpose", ["image"], ["normalised"], perm=[0, 3, 1, 2])], {}, image)


def takes_bytes(model, side=SIDE, last=False):
    """Takes the photo as uint8, with its channels first or last; the graph casts and normalises it."""
    shape = [1, side, side, 3] if last else [1, 3, side, side]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, shape)
    nodes = [helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
             helper.make_node("Sub", ["float", "mean"], ["less"]), helper.make_node("Div", ["less", "std"], ["normalised"])]
    if last:
        nodes[2].output[0] = "divided"
        nodes.append(helper.make_node("Transpose", ["divided"], ["normalised"], perm=[0, 3, 1, 2]))
    shaped = lambda numbers: np.array(numbers, "float32").reshape((1, 1, 1, 3) if last else (1, 3, 1, 1))
    put_before(model, nodes, {"mean": shaped(torch_nets.MEAN), "std": shaped(torch_nets.STD)}, image)


def open_axes(model, axes):
    for axis, name in axes.items():
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]


def quantized(file, kind):
    """Quantized by ONNX Runtime's own tool, calibrated on the photos."""
    from onnxruntime import quantization as q

    made = file.with_name("quantized.onnx")
    if kind == "dynamic int8":
        q.quantize_dynamic(file, made, op_types_to_quantize=["Conv", "MatMul", "Gemm"], weight_type=q.QuantType.QUInt8)
        return made

    class Photos(q.CalibrationDataReader):
        def __init__(self):
            self.left = iter(photos(SIDE, SIDE))

        def get_next(self):
            photo = next(self.left, None)
            return None if photo is None else {"image": torch_nets.tensor(photo).float().numpy()}

    as_values = kind == "QDQ int8"
    form = q.QuantFormat.QDQ if as_values else q.QuantFormat.QOperator
    # ONNX Runtime's own sums of integers are wrong for weights of 8 bits on processors without VNNI.
    q.quantize_static(file, made, Photos(), quant_format=form, per_channel=as_values, reduce_range=not as_values)
    return made


def changed(name, net, folder):
    """The file of one variant, and the flags to prepare it with."""
    words = name.split(", ")
    if words[0].startswith("opset"):
        return torch_nets.written(net, SIDE, words[1], folder, int(words[0].split()[1])), torch_nets.FLAGS
    if name == "unoptimised dynamo":
        file = folder / "net.onnx"
        torch.onnx.export(net, (torch.zeros(1, 3, SIDE, SIDE),), str(file), dynamo=True, optimize=False)
        return file, torch_nets.FLAGS
    file = torch_nets.written(net, SIDE, "script", folder, 17)
    model, flags = onnx.load(file), list(torch_nets.FLAGS)
    if name == "onnxsim":
        from onnxsim import simplify

        model, _ = simplify(model)
    elif name == "external data":
        onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
        return file, flags
    elif name in ("fp16", "fp16 inside"):
        from onnxconverter_common import float16

        model = float16.convert_float_to_float16(model, keep_io_types=name == "fp16 inside")
    elif "int8" in name:
        return quantized(file, name), flags
    elif name == "channels last":
        channels_last(model)
    elif name == "bytes":
        takes_bytes(model)
        flags = []
    elif name == "open batch":
        open_axes(model, {0: "batch"})
    elif name == "open sides":
        open_axes(model, {0: "batch", 1: "channels", 2: "height", 3: "width"})
        flags += ["--size", f"{SIDE}x{SIDE}"]
    elif name == "softmax":
        model.graph.node.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
        model.graph.output[0].name = "probabilities"
    elif name == "optimised by ONNX Runtime":
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return folder / "optimised.onnx", flags
    onnx.save(model, file)
    return file, flags


def head_weights(model):
    """The weights that the integers of the last layer stand for, [class, channel], float64."""
    held = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    whole = next(name for name in held if name.startswith("head.weight") and name.endswith("_quantized"))
    name = whole.removesuffix("_quantized")
    rows = held[whole].astype("float64")
    rows = rows if len(rows) == CLASSES else rows.T
    scale, zero = (held[f"{name}_{part}"].astype("float64").reshape(-1, 1) for part in ("scale", "zero_point"))
    return (rows - zero) * scale


def within(numbers, scale, zero):
    """1 where integers of the zero point's type can stand for the numbers, else 0: the derivative of fake quantization."""
    ends = np.iinfo(zero.dtype)
    low, high = ((float(end) - float(zero)) * float(scale) for end in (ends.min, ends.max))
    return (low <= numbers) & (numbers <= high)


def passing(model, values):
    """For a head of integers, the derivative of rounding its scores, [class, 1], times that of rounding what it pools,
    [1, channel]; 1 for any other."""
    made = {node.op_type: [values[name] for name in node.input] for node in model.graph.node
            if node.op_type in ("QGemm", "QLinearGlobalAveragePool")}
    if "QGemm" not in made:
        return np.ones((CLASSES, 1))
    x, x_scale, x_zero, w, w_scale, w_zero, bias = (one.astype("float64") for one in made["QGemm"][:7])
    rows = w if len(w) == CLASSES else w.T
    scores = (((x - x_zero) @ (rows - w_zero).T + bias) * x_scale * w_scale)[0]
    whole, scale, zero = (one.astype("float64") for one in made["QLinearGlobalAveragePool"][:3])
    pooled = ((whole - zero) * scale).mean((2, 3))
    return within(scores, *made["QGemm"][7:])[:, None] * within(pooled, *made["QLinearGlobalAveragePool"][3:])


def by_the_file(file):
    """The reference for int8: the file's own answer by ONNX Runtime. The gradient ignores rounding while the network
    runs; the head is pooling and one dense layer."""
    model = onnx.load(file)
    inner = [o for node in model.graph.node for o in node.output if node.op_type not in ("QuantizeLinear", "Constant")]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    weights = head_weights(model)
    held = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    # Scale and zero point of the maps that are integers only.
    meanings = {node.output[0]: [held[name].astype("float32") for name in node.input[6:8]] for node in model.graph.node if node.op_type == "QLinearConv"}

    def look(photo):
        image = {"image": torch_nets.tensor(photo).float().numpy()}
        values = dict(zip([o.name for o in session.get_outputs()], session.run(None, image)))
        scores = values["scores"][0].astype("float64")
        probabilities = np.exp(scores - scores.max())
        probabilities /= probabilities.sum()
        maps = {name: value for name, value in values.items() if value.ndim == 4 and value.dtype == np.float32}
        maps |= {name: (values[name].astype("float32") - zero) * scale for name, (scale, zero) in meanings.items()}
        tensors = [Tensor("", value.astype("float64"), name) for name, value in maps.items()]

        rows = passing(model, values | held) * weights

        def gradient(index, handle):
            row = probabilities[index] * (rows[index] - probabilities @ rows)
            places = maps[handle].shape[2] * maps[handle].shape[3]
            # Before the ReLU the gradient is 0 where the map is below zero; behind it, it is the same everywhere.
            passed = maps[handle] > 0 if maps[handle].min() < 0 else 1
            return np.broadcast_to(row[None, :, None, None] / places * passed, maps[handle].shape)

        return Seen(probabilities, tensors, gradient)

    return look


def folded(net):
    """The net with its batch norms folded into its convolutions, as the exporter writes it."""
    for part in (net.stem, net.first, net.second, net.third):
        part[0], part[1] = nn.utils.fusion.fuse_conv_bn_eval(part[0], part[1]), nn.Identity()
    return net


def make(_, name, folder):
    torch.manual_seed(1)
    torch.set_num_threads(1)
    net = torch_nets.stirred(Small(), SIDE)
    file, flags = changed(name, net, folder)
    loose = {}
    reference = torch_nets.reference(net)
    if "int8" in name:
        # Engines may round a value half-way between two levels to different levels.
        reference, loose = by_the_file(file), {"probability": 0.02, "heatmap": 0.05}
    elif "fp16" in name:
        # The exporter folds the batch norms before the weights are rounded.
        reference = torch_nets.reference(folded(net).half().float())
    return Net(file, [*flags, "--python", sys.executable], (SIDE, SIDE), reference, exported="ONNX", **loose)
