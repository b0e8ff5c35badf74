"""Writes small classifiers whose graphs have a structure of their own: functions that the file defines, branches,
loops, fused operators, integers in the form QOperator. modelkit's test of structures prepares them.

    python tests/reference/structures.py        # onnx, onnxruntime, tensorflow; writes tests/reference/structures

Each folder has model.onnx, and ONNX Runtime's probabilities of the photos, which lie beside it; those of integers also
have Grad-CAM's maps of the logits, [photo][class][3 x 3], at the last map, by the derivative of TensorFlow's fake
quantization.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from operators import Build, classifier, photos, session, softmax

OPSET = 17


def graph(name, nodes, made, taken=(), held=()):
    """A subgraph that gives float32 values."""
    value = lambda name, kind, shape=None: helper.make_tensor_value_info(name, kind, shape)
    return helper.make_graph(nodes, name, [value(*one) for one in taken], [value(*one) for one in made], list(held))


def factor(name, number):
    """A branch that multiplies the map "map" by a number."""
    nodes = [helper.make_node("Mul", ["map", f"{name}_by"], [f"{name}_made"], name="same name")]
    held = [numpy_helper.from_array(np.float32(number), f"{name}_by")]
    return graph(name, nodes, [(f"{name}_made", TensorProto.FLOAT)], held=held)


def named(build, x, name="map"):
    """Gives the value x a name that subgraphs can read."""
    build.nodes.append(helper.make_node("Identity", [x], [name], name=name))
    return name


def branch(build, x, condition):
    x = named(build, build.call("Relu", x))
    return build.call("If", condition(build, x), then_branch=factor("then", 1.5), else_branch=factor("else", -0.5))


def on_shape(build, x):
    side = build.call("Gather", build.call("Shape", x), np.array(2))
    return build.call("Greater", side, np.array(1))


def on_photo(build, x):
    mean = build.call("ReduceMean", x, keepdims=0)
    return build.call("Greater", mean, np.float32(0.78))


def loop(build, x, times):
    nodes = [helper.make_node("Identity", ["go_in"], ["go_out"]), helper.make_node("Mul", ["value", "by"], ["value_out"])]
    body = graph("body", nodes, [("go_out", TensorProto.BOOL), ("value_out", TensorProto.FLOAT)],
                 [("step", TensorProto.INT64, []), ("go_in", TensorProto.BOOL, []), ("value", TensorProto.FLOAT)],
                 [numpy_helper.from_array(np.float32(0.9), "by")])
    return build.call("Loop", np.array(times), np.array(True), build.call("Relu", x), body=body)


def masked(build, x):
    """Keras's ReLU with a threshold as tf2onnx writes it: a mask, in the order of axes of Keras, times the map."""
    last = build.call("Transpose", x, perm=[0, 2, 3, 1])
    mask = build.call("Cast", build.call("Greater", last, np.float32(0.1)), to=TensorProto.FLOAT)
    first = build.call("Transpose", build.call("Mul", mask, last), perm=[0, 3, 1, 2])
    return build.call("Sub", first, build.call("Mul", np.float32(0.2), build.call("Relu", build.call("Neg", x))))


def skip_norm(build, x):
    """The tokens of the map, twice a sum and a norm, with a layer between them."""
    tokens = build.call("Transpose", build.call("Reshape", x, np.array([1, 4, -1])), perm=[0, 2, 1])
    other = build.call("MatMul", tokens, build.weights(4, 4))
    fused = lambda *inputs, outputs=1: build.call("SkipLayerNormalization", *inputs, outputs=outputs, domain="com.microsoft", epsilon=1e-5)
    norm, _, _, total = fused(other, tokens, build.weights(4), build.weights(4), build.weights(4), outputs=4)
    build.nodes[-1].output[1] = build.nodes[-1].output[2] = ""
    wide = build.call("BiasGelu", build.call("MatMul", norm, build.weights(4, 8)), build.weights(8), domain="com.microsoft")
    last = fused(build.call("MatMul", wide, build.weights(8, 4)), total, build.weights(4), build.weights(4))
    return build.call("Mul", build.call("ReduceMean", last, axes=[1], keepdims=0), np.float32(0.2))


def integers_of_tokens(build, x):
    """Dense layers of the map's tokens as ONNX Runtime fuses those of dynamic quantization: signed and unsigned weights,
    one scale and one for each column, with zero point and bias and without. All weights fit in 7 bits, because ONNX
    Runtime itself is wrong for others on some processors."""
    fused = lambda operator, *inputs: build.call(operator, *inputs, domain="com.microsoft")
    whole = lambda *shape: (build.random.normal(size=shape) * 25).clip(-63, 63).astype(np.int8)
    raised = lambda *shape: (whole(*shape).astype(np.int32) + 64).astype(np.uint8)
    scale, around = np.float32(0.02), np.uint8(64)
    tokens = build.call("Transpose", build.call("Reshape", x, np.array([1, 4, -1])), perm=[0, 2, 1])
    scales = (0.01 + 0.01 * build.random.uniform(size=8)).astype("float32")
    wide = fused("Gelu", fused("DynamicQuantizeMatMul", tokens, whole(4, 8), scales))
    integers, own, zero = build.call("DynamicQuantizeLinear", wide, outputs=3)
    narrow = fused("MatMulIntegerToFloat", integers, raised(8, 4), own, scale, zero, around, build.weights(4))
    both = build.call("Add", narrow, tokens)
    last = fused("DynamicQuantizeMatMul", both, raised(4, 4), scale, around, build.weights(4))
    return build.call("Mul", build.call("ReduceMean", last, axes=[1], keepdims=0), np.float32(0.3))


def call(build, x, **given):
    return build.call("Block", build.call("Relu", x), build.weights(4, 4, 3, 3), domain="own.functions", **given)


def with_functions(model):
    """Adds the functions: Block calls Act, has an attribute without a default and one with."""
    node = helper.make_node
    shifted = node("Conv", ["x", "w"], ["c"], name="n")
    shifted.attribute.append(onnx.AttributeProto(name="pads", type=onnx.AttributeProto.INTS, ref_attr_name="pads"))
    act = node("Relu", ["x"], ["y"], name="n")
    scaled = node("Constant", [], ["k"])
    scaled.attribute.append(onnx.AttributeProto(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="factor"))
    inner = node("Act", ["c"], ["a"], domain="own.inner")
    sets = [helper.make_opsetid("", OPSET)]
    model.functions.extend([
        helper.make_function("own.inner", "Act", ["x"], ["y"], [act], sets),
        helper.make_function("own.functions", "Block", ["x", "w"], ["y"], [shifted, inner, scaled, node("Mul", ["a", "k"], ["y"])],
                             [*sets, helper.make_opsetid("own.inner", 1)], ["pads"], [helper.make_attribute("factor", 1.5)])])
    model.opset_import.extend([helper.make_opsetid("own.functions", 1), helper.make_opsetid("own.inner", 1)])
    return model


def functions():
    """Two calls of a function, one of which sets the factor."""
    build = Build(OPSET)
    x = build.call("Conv", "image", build.weights(4, 3, 3, 3), build.weights(4), pads=[1, 1, 1, 1])
    x = call(build, call(build, x, pads=[1, 1, 1, 1]), pads=[0, 0, 1, 1], factor=0.8)
    x = build.call("Flatten", build.call("GlobalAveragePool", x))
    scores = build.call("Gemm", x, build.weights(4, 3), build.weights(3))
    return with_functions(build.model(scores, [1, 3]))


def on(between, after=None):
    pooled = lambda build, x: build.call("Flatten", build.call("GlobalAveragePool", between(build, x)))
    return classifier(OPSET, pooled, after)


def residual(build, x, leaky):
    """A block as in residual networks, with a gate, two branches, and the poolings that keep integers."""
    x = build.call("MaxPool", build.call("Relu", x), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = build.call("Add", x, build.call("Conv", x, build.weights(4, 4, 3, 3), build.weights(4), pads=[1, 1, 1, 1]))
    gate = build.call("Conv", build.call("GlobalAveragePool", x), build.weights(4, 4, 1, 1), build.weights(4))
    x = build.call("Mul", x, build.call("Sigmoid", gate))
    own = build.call("Conv", x, build.weights(4, 1, 3, 3), pads=[1, 1, 1, 1], group=4)
    own = build.call("LeakyRelu", own, alpha=0.1) if leaky else own
    x = build.call("Concat", own, x, axis=1)
    x = build.call("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = build.call("Conv", build.call("GlobalAveragePool", x), build.weights(8, 8, 1, 1))
    x = build.call("Flatten", x)
    return build.call("Gemm", x, build.weights(8, 8), build.weights(8), transB=1)


def product(build, x):
    return build.call("MatMul", x, build.weights(8, 8))


def quantized(model, per_channel, kind):
    """The model with the integer operators of ONNX Runtime, calibrated on the photos. Weights have 7 bits, because
    ONNX Runtime's optimised sums of 8 overflow on processors without VNNI."""

    class Photos(quantization.CalibrationDataReader):
        left = iter(photos())

        def get_next(self):
            photo = next(self.left, None)
            return None if photo is None else {"image": photo}

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "integers.onnx"
        onnx.save(model, before)
        quantization.quantize_static(before, after, Photos(), quant_format=quantization.QuantFormat.QOperator,
                                     per_channel=per_channel, reduce_range=True, activation_type=kind, weight_type=kind)
        return onnx.load(after)


def integers(opset, per_channel, kind, leaky=False):
    return quantized(classifier(opset, lambda build, x: residual(build, x, leaky), product), per_channel, kind)


def maps(model):
    """Grad-CAM's maps of the logits at the output of the average pooling, which are not yet clipped at 0."""
    import tensorflow as tf

    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    at = next(index for index, node in enumerate(nodes) if node.op_type == "QLinearAveragePool")
    pool, after = nodes[at], nodes[at + 1:]
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.append(helper.make_empty_tensor_value_info(pool.output[0]))

    def values(integers, scale, zero, axis=0):
        along = lambda held: held.reshape([-1 if at == axis else 1 for at in range(integers.ndim)]) if held.ndim else held
        return (integers.astype("float32") - along(zero).astype("float32")) * along(scale)

    def rounded(value, scale, zero):
        low, high = ((limit - float(zero)) * float(scale) for limit in (np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max))
        return tf.quantization.fake_quant_with_min_max_args(value, low, high)

    def rest(value):
        for node in after:
            given = lambda *at: [held[node.input[index]] for index in at]
            if node.op_type == "QLinearGlobalAveragePool":
                value = rounded(tf.reduce_mean(value, [2, 3]), *given(3, 4))
            elif node.op_type == "QLinearMatMul":
                value = rounded(value @ values(*given(3, 4, 5), axis=1), *given(6, 7))
            elif node.op_type == "QLinearConv":
                value = rounded(value @ values(*given(3, 4, 5)).reshape(8, 8).T, *given(6, 7))
            elif node.op_type == "QGemm":
                bias, of_input, of_weights = given(6, 1, 4)
                flipped = any(a.name == "transB" and a.i for a in node.attribute)
                weights = values(*given(3, 4, 5), axis=0 if flipped else 1)
                value = value @ (weights.T if flipped else weights) + bias * of_input * of_weights
                value = rounded(value, *given(7, 8))
        return value

    def of_photo(photo):
        [integers] = session(whole).run([pool.output[0]], {"image": photo})
        last = tf.constant(values(integers, *(held[name] for name in pool.input[3:5])))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(last)
            scores = [rest(last)[0, index] for index in range(3)]
        weighted = [tf.reduce_mean(tape.gradient(score, last), [2, 3], keepdims=True) * last for score in scores]
        return [tf.reduce_sum(one, 1).numpy().ravel().tolist() for one in weighted]

    return [of_photo(photo) for photo in photos()]


MODELS = {
    "dynamic_tokens": lambda: classifier(OPSET, integers_of_tokens, None),
    "if_on_shape": lambda: on(lambda b, x: branch(b, x, on_shape)),
    "if_on_constant": lambda: on(lambda b, x: branch(b, x, lambda build, _: build.hold(np.array(False)))),
    "if_on_photo": lambda: on(lambda b, x: branch(b, x, on_photo)),
    "loop": lambda: on(lambda b, x: loop(b, x, 3)),
    "masked": lambda: on(masked),
    "functions": functions,
    "qoperator": lambda: integers(OPSET, False, quantization.QuantType.QUInt8),
    "qoperator_channels": lambda: integers(OPSET, True, quantization.QuantType.QInt8),
    "qoperator_channels_11": lambda: integers(11, True, quantization.QuantType.QInt8, leaky=True),
    "skip_layer_norm": lambda: classifier(OPSET, skip_norm, None),
}  # fmt: skip


def main():
    out = Path(__file__).parent / "structures"
    out.mkdir(exist_ok=True)
    (out / "photos.f32").write_bytes(np.concatenate(photos()).tobytes())
    for name, make in MODELS.items():
        model = make()
        run = session(model)
        right = [softmax(run.run(None, {"image": photo})[0][0]).tolist() for photo in photos()]
        (out / name).mkdir(exist_ok=True)
        onnx.save(model, out / name / "model.onnx")
        (out / name / "expected.json").write_text(json.dumps(right) + "\n")
        if name in ("qoperator", "qoperator_channels"):
            (out / name / "maps.json").write_text(json.dumps(maps(model)) + "\n")


if __name__ == "__main__":
    main()
