"""Exports a Keras classifier to ONNX: `.keras`, `.h5` or a SavedModel folder in, one file out.

    python3 -m venv .venv && .venv/bin/pip install -r models/keras/requirements.txt
    .venv/bin/python models/keras/export.py dermatology_stage1.keras raw.onnx
    skincell model prepare raw.onnx --labels labels.txt -o models/skin

Keras's own exporter does the work; here the model is called once (it refuses one that never was),
the batch is fixed to 1, input and output get the names `image` and `scores`, the versions used are
recorded. Preprocessing inside the model stays there. Makes no Grad-CAM: `prepare` does.
"""

import argparse
import os

os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"} | dict(os.environ))

import keras
import numpy as np
import onnx
import tensorflow as tf

OPSET = 17


def load(path):
    """A model from a file, or from a SavedModel folder as an inference-only layer."""
    if not os.path.isdir(path):
        return keras.models.load_model(path, compile=False)
    layer = keras.layers.TFSMLayer(str(path), call_endpoint="serving_default")
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    (spec,) = signature.structured_input_signature[1].values()
    image = keras.Input(spec.shape[1:])
    (scores,) = layer(image).values()
    return keras.Model(image, scores)


def fix_names(model, renamed):
    """Gives graph inputs and outputs the names wanted, wherever they are read or made."""
    for value in [*model.graph.input, *model.graph.output]:
        value.name = renamed.get(value.name, value.name)
    for names in [names for node in model.graph.node for names in [node.input, node.output]]:
        names[:] = [renamed.get(name, name) for name in names]


def export(model, path, size=None, opset=OPSET):
    """Writes `model` to `path`; `size` is (height, width) where the model leaves them open."""
    shape = model.inputs[0].shape[1:]
    if None in shape[:2] and size is None:
        raise SystemExit(f"the model takes images of any size {shape}; give --size HEIGHT WIDTH")
    shape = (*size, shape[2]) if None in shape[:2] else shape
    for layer in model._flatten_layers():
        # A tensor made outside the exported function becomes an input of it, an array a constant.
        if isinstance(layer, keras.layers.Normalization) and layer.mean is not None:
            layer.mean, layer.variance = np.array(layer.mean), np.array(layer.variance)
    model(np.zeros((1, *shape), "float32"))
    signature = [keras.InputSpec(shape=(1, *shape), dtype="float32", name="image")]
    model.export(path, format="onnx", input_signature=signature, opset_version=opset, verbose=False)
    exported = onnx.load(path)
    (image,), (scores,) = exported.graph.input, exported.graph.output
    fix_names(exported, {image.name: "image", scores.name: "scores"})
    left = {n.op_type for n in exported.graph.node if not onnx.defs.has(n.op_type, n.domain)}
    if left - {"Erfc"}:  # that one is TensorFlow's as well, and `prepare` knows it
        os.remove(path)
        raise SystemExit(f"ONNX has nothing for TensorFlow's {', '.join(sorted(left))}")
    versions = {"opset": opset, "keras": keras.__version__, "tensorflow": tf.__version__}
    onnx.helper.set_model_props(exported, {k: str(v) for k, v in versions.items()})
    onnx.save(exported, path)
    return exported


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("onnx")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--opset", type=int, default=OPSET)
    asked = parser.parse_args()
    made = export(load(asked.model), asked.onnx, asked.size, asked.opset)
    print(f"{asked.onnx}: {len(made.graph.node)} nodes, image -> scores")
