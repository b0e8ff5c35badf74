"""Exports a Keras classifier to ONNX: `.keras`, `.h5` or a SavedModel folder in, one file out.

    python3 -m venv .venv && .venv/bin/pip install -r models/keras/requirements.txt
    .venv/bin/python models/keras/export.py dermatology_stage1.keras raw.onnx
    skincell model prepare raw.onnx --labels labels.txt -o models/skin

The model is exported for prediction: `training=False`, so that augmentation layers pass their input on
and batch norms use their running statistics. Preprocessing inside the model stays there. The batch is
fixed to 1; a single input and output get the names `image` and `scores`. A file that Keras 3 cannot load is
loaded by Keras 2 (`tf_keras`). A model of mixed precision is computed in float32. Code inside a file (a Lambda layer) is never run. Grad-CAM is added later, by
`prepare`.

With `--predict` it prints a line `skincell: {"inputs", "outputs", "convention"}` and then answers, for every
line of JSON `[{"name", "shape", "file"}]` on its standard input (files of little-endian float32), with a line
`skincell: {"output": [numbers]}`.
"""

import argparse
import collections
import contextlib
import json
import os
import queue
import re
import sys
import threading
import zipfile
from unittest import mock

os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
                  | {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"})

REQUESTS = queue.SimpleQueue()
EXPORTED = threading.Event()


def read_requests():
    """Puts the lines of standard input into `REQUESTS`, and `None` at its end. If it ends before the export and before
    any line, the program that wants the export has ended, and so does this one."""
    none = True
    # Unbuffered, because Python cannot end while another thread is reading through a buffer.
    for line in open(0, "rb", buffering=0, closefd=False):
        none = False
        REQUESTS.put(line)
    if none and not EXPORTED.is_set():
        os._exit(1)
    REQUESTS.put(None)


# Before the frameworks are imported, which takes seconds.
if "--predict" in sys.argv:
    threading.Thread(target=read_requests, daemon=True).start()

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keras.src.export.tf2onnx_lib import patch_tf2onnx
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

OPSET = 17


def config_of(path):
    """The saved configuration of a `.keras` or `.h5` file; empty without one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
    if text is None:
        raise SystemExit("the file holds weights without a model: build the model in Python, call "
                         "load_weights() and save it whole with model.save(\"model.keras\")")
    return json.loads(text)


def layers_in(config):
    """The configurations of all layers, including those of nested models."""
    if isinstance(config, list):
        for item in config:
            yield from layers_in(item)
    elif isinstance(config, dict):
        if isinstance(config.get("class_name"), str) and isinstance(config.get("config"), dict):
            yield config
        for item in config.values():
            yield from layers_in(item)


def is_code(layer):
    """Whether a Lambda layer's function is Python code and not the name of a Keras function."""
    function = layer["config"].get("function")
    if isinstance(function, dict) and function.get("class_name") == "function":
        return function.get("config") is None
    return not isinstance(function, str)


def refuse_code(config):
    for layer in layers_in(config):
        if layer["class_name"] == "Lambda" and is_code(layer):
            name = layer["config"].get("name", "lambda")
            raise SystemExit(
                f"layer \"{name}\" is a Lambda: it holds Python code, which is not run out of a file. In the "
                "script that made the model, put a layer of Keras in its place (Rescaling, Normalization, "
                "Resizing, GlobalAveragePooling2D, …), load_weights() from this file, and save it again")


def first_line(error):
    """The most useful line of a framework's long error message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Exception encountered", "Arguments received", "•"))]
    return (kept or lines or [type(error).__name__])[0][:400]


def fixed_dropout(tf_keras):
    """The dropout layer of the package efficientnet 1.x, which does nothing in a prediction, as any dropout."""
    class FixedDropout(tf_keras.layers.Dropout):
        pass
    return FixedDropout


def load_file(path):
    """A model from a file, loaded by Keras 3 or, if that fails, by Keras 2."""
    config = config_of(path)
    refuse_code(config)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        new = first_line(error)
    try:
        import tf_keras
    except ImportError:
        raise SystemExit(f"Keras {keras.__version__} does not load it ({new}); a file of Keras 2 needs the package "
                         "tf_keras: python -m pip install tf_keras") from None
    try:
        known = {"FixedDropout": fixed_dropout(tf_keras)}
        return tf_keras.models.load_model(path, compile=False, custom_objects=known)
    except Exception as error:
        old = first_line(error)
    raise SystemExit(f"Keras {keras.__version__} says: {new}; Keras 2 says: {old}. A layer of your own cannot be "
                     "loaded without its code: export the model to ONNX in the script that defines it "
                     "(model.export(\"model.onnx\", format=\"onnx\")), and prepare that file")


class SavedModel:
    """The serving signature of a SavedModel folder, with the attributes of a model that the export needs."""

    def __init__(self, path):
        self.held = tf.saved_model.load(str(path))
        signatures = self.held.signatures
        if not signatures:
            raise SystemExit("the SavedModel has no serving signature; save it with model.export(folder), or save "
                             "the model as .keras")
        self.call = signatures.get("serving_default") or next(iter(signatures.values()))
        self.specs = dict(self.call.structured_input_signature[1])
        self.inputs = list(self.specs.values())
        self.input_names = list(self.specs)
        self.output_names = sorted(self.call.structured_outputs)

    def __call__(self, values, training=False):
        values = values if isinstance(values, list) else [values]
        named = dict(zip(self.input_names, values))
        answers = self.call(**named)
        return [answers[name] for name in self.output_names]


def in_float32(model):
    """The model, computed in float32 where it was trained in mixed precision: its weights are float32, and its
    predictions would differ from one processor to the next by what half precision rounds."""
    for layer in model._flatten_layers() if hasattr(model, "_flatten_layers") else []:
        policy = getattr(layer, "dtype_policy", None)
        if getattr(policy, "name", "").startswith("mixed_") and isinstance(layer, keras.Layer):
            layer.dtype_policy = keras.DTypePolicy("float32")
    return model


def load(path):
    return SavedModel(path) if os.path.isdir(path) else in_float32(load_file(path))


def convention(model):
    """`teachable-machine` for its two nested Sequential models, whose layers carry the names of TensorFlow.js."""
    layers = getattr(model, "layers", [])
    nested = [layer for layer in layers if type(layer).__name__ == "Sequential"]
    inner = [layer.name for part in nested for layer in part.layers]
    named = any("GlobalAveragePooling2D1" in name or name.startswith("model") for name in inner)
    return "teachable-machine" if len(layers) == len(nested) == 2 and named else None


def as_list(value):
    return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, (list, tuple)) else [value]


def input_shapes(model, size):
    """The shape of each input for one photo; open sides of the photo are filled in."""
    if not getattr(model, "inputs", None):
        raise SystemExit("the model was never called or built, so it does not know its input; save it after predict()")
    shapes = []
    for spec in model.inputs:
        shape = list(spec.shape)
        if len(shape) == 4 and None in shape[1:3]:
            size = size or resizing(model)
            if size is None:
                raise SystemExit(f"the model takes images of any size {tuple(shape[1:])}; say which with --size "
                                 "WIDTHxHEIGHT")
            shape[1:3] = size
        shapes.append([1, *(1 if side is None else int(side) for side in shape[1:])])
    return shapes


def resizing(model):
    """Height and width from the first layer that sets them, for a model with open sizes."""
    flat = model._flatten_layers() if hasattr(model, "_flatten_layers") else []
    for layer in flat:
        if type(layer).__name__ in ("Resizing", "CenterCrop", "RandomCrop"):
            return layer.height, layer.width
    return None


def input_names(model):
    """The names of the inputs: `image` for the photo, unchanged for the others."""
    photos = [i for i, spec in enumerate(model.inputs) if len(spec.shape) == 4]
    names = list(getattr(model, "input_names", None) or
                 [getattr(spec, "name", f"input_{i}").split(":")[0] for i, spec in enumerate(model.inputs)])
    if len(photos) == 1:
        names[photos[0]] = "image"
    return names


@contextlib.contextmanager
def exact_scopes(calls):
    """Names the nodes of each layer after the layer alone, and counts in `calls` how often each layer is called.

    Keras opens a layer's scope twice, and TensorFlow then appends a number to the name, which may make it the name
    of another layer."""
    def scope(layer):
        around, name = tf.get_current_name_scope(), re.sub("[^A-Za-z0-9_.-]", "_", layer.name)
        return f"{around}/{name}/" if around else f"{name}/"

    def named(original):
        def call(layer, *args, **kwargs):
            path = scope(layer)
            calls[path.strip("/").replace("/", ".")] += 1
            with tf.name_scope(path):
                return original(layer, *args, **kwargs)
        return call

    with contextlib.ExitStack() as stack:
        def patch(owner, name, value):
            stack.enter_context(mock.patch.object(owner, name, value))

        patch(keras.Layer, "__call__", named(keras.Layer.__call__))
        patch(keras.Layer, "_open_name_scope", lambda layer: contextlib.nullcontext())
        if "tf_keras" in sys.modules:
            old = sys.modules["tf_keras"].layers.Layer
            patch(old, "__call__", named(old.__call__))
            patch(old, "_get_unnested_name_scope", lambda layer: tf.get_current_name_scope() + "/")
        yield


def output_names(model, answers):
    """A name for each output: the keys of a dictionary, or else the names of Keras; `scores` for a single one."""
    if len(as_list(answers)) == 1:
        return ["scores"]
    if isinstance(answers, dict):
        return [str(key) for key in answers]
    return list(getattr(model, "output_names", None) or [f"output_{i}" for i in range(len(as_list(answers)))])


def forward(model, names, shapes, calls, given):
    """The model's prediction as a TensorFlow function of float32 inputs. It counts the calls of each layer, and
    sets `given` to the names of its outputs."""
    types = [tf.as_dtype(spec.dtype) for spec in model.inputs]
    specs = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in zip(names, shapes)]

    def predict(*values):
        values = [value if dtype == tf.float32 else tf.cast(value, dtype) for value, dtype in zip(values, types)]
        # Keras compiles grouped convolutions as separate functions, which tf2onnx cannot read. Eager calls inline them.
        tf.config.run_functions_eagerly(not isinstance(model, SavedModel))
        try:
            with exact_scopes(calls):
                answers = model(values if len(values) > 1 else values[0], training=False)
        finally:
            tf.config.run_functions_eagerly(False)
        given[:] = output_names(model, answers)
        return [tf.identity(tf.cast(answer, tf.float32)) for answer in as_list(answers)]

    return tf.function(predict, input_signature=specs, autograph=False)


def frozen(function):
    """The graph, its input names and its output names; variables and captured tensors have become constants."""
    concrete = function.get_concrete_function()
    held = {inside.op.name: outside for outside, inside in concrete.graph.captures if outside.dtype != tf.resource}
    graph = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    definition = graph.graph.as_graph_def()
    for node in definition.node:
        if node.op == "Placeholder" and node.name in held:
            value = tf.make_tensor_proto(held[node.name].numpy())
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = value.dtype
            node.attr["value"].tensor.CopyFrom(value)
    outputs = [tensor.name for tensor in graph.outputs]
    return definition, [f"{spec.name}:0" for spec in function.input_signature], outputs


def fix_names(graph, renamed):
    """Renames values of the graph, in its inputs and outputs and in all nodes, and in the branches of nodes, which
    read values of the graph around them."""
    for value in [*graph.input, *graph.output]:
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        for names in [node.input, node.output]:
            names[:] = [renamed.get(name, name) for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                fix_names(attribute.g, renamed)


def conv_bias(model):
    """`own` if the biases of all convolutions are the layers' own, `folded` if batch norms will cause them,
    otherwise None."""
    layers = list(model._flatten_layers()) if hasattr(model, "_flatten_layers") else []
    convolutions = [layer for layer in layers if hasattr(layer, "kernel_size") and hasattr(layer, "use_bias")]
    if convolutions and not any(layer.use_bias for layer in convolutions):
        return "folded"
    normed = any("Normalization" in type(layer).__name__ for layer in layers)
    return "own" if convolutions and not normed else None


def export(model, path, size=None, opset=OPSET):
    """Writes `model` to `path`; `size` is (height, width) for a model with open sizes."""
    shapes, names = input_shapes(model, size), input_names(model)
    calls = collections.Counter()
    given = []
    function = forward(model, names, shapes, calls, given)
    definition, inputs, outputs = frozen(function)
    patch_tf2onnx()
    exported, _ = tf2onnx.convert.from_graph_def(
        definition, input_names=inputs, output_names=outputs, opset=opset)
    fix_names(exported.graph, dict(zip(inputs, names)) | dict(zip(outputs, given)))
    left = {n.op_type for n in exported.graph.node if not onnx.defs.has(n.op_type, n.domain)}
    if left - {"Erfc"}:  # `prepare` replaces this TensorFlow operator
        raise SystemExit(f"ONNX has nothing for TensorFlow's {', '.join(sorted(left))}: replace the layer that "
                         "needs it, or export the model without it")
    versions = {"opset": opset, "keras": keras.__version__, "tensorflow": tf.__version__}
    if kind := conv_bias(model):
        versions["skincell.conv_bias"] = kind
    if calls:
        versions["skincell.layer_names"] = "exact"
        versions["skincell.repeated_layers"] = json.dumps([path for path, count in calls.items() if count > 1])
    onnx.helper.set_model_props(exported, {k: str(v) for k, v in versions.items()})
    onnx.save(exported, path)
    return exported, names, given


def answer(model, names, given, request):
    """The model's prediction for one request: each output's numbers by its name."""
    tensors = {i["name"]: np.fromfile(i["file"], "<f4").reshape(i["shape"]) for i in request}
    values = [tensors[name] for name in names]
    if isinstance(model, SavedModel):
        values = [tf.cast(value, spec.dtype) for value, spec in zip(values, model.inputs)]
        found = model(values)
    else:
        found = model.predict(values if len(values) > 1 else values[0], verbose=0)
    values = [found[name] for name in given] if isinstance(found, dict) and len(given) > 1 else as_list(found)
    return {name: np.asarray(value, "float64").ravel().tolist() for name, value in zip(given, values)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("onnx")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--opset", type=int, default=OPSET)
    parser.add_argument("--predict", action="store_true", help="then answer requests on standard input")
    asked = parser.parse_args()
    model = load(asked.model)
    try:
        made, names, given = export(model, asked.onnx, asked.size, asked.opset)
    except Exception as error:
        if "AssignVariableOp" in str(error):
            raise SystemExit("the model changes variables as it predicts: a SavedModel whose augmentation layers were "
                             "exported as they train. Prepare the .keras file it was made of, or export it without "
                             "those layers") from None
        raise SystemExit(f"{type(error).__name__}: {first_line(error)}") from None
    print(f"{asked.onnx}: {len(made.graph.node)} nodes, {', '.join(names)} -> {', '.join(given)}", flush=True)
    EXPORTED.set()
    if not asked.predict:
        return
    print("skincell:", json.dumps({"inputs": names, "outputs": given, "convention": convention(model)}), flush=True)
    for line in iter(REQUESTS.get, None):
        print("skincell:", json.dumps(answer(model, names, given, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
