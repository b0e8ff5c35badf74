"""Quantizes the ONNX graph of `keras_models.py` for the engines that read ONNX.

    python quantized.py FOLDER [--photos 16]

Reads model.onnx and photos.npy. Writes `convolutions.onnx` (QDQ: the inputs and weights of convolutions that are
not depthwise, as `skincell model quantize` does, for cellnet), `whole.onnx` (QDQ: everything ONNX Runtime's tools
quantize by default, for ONNX Runtime), and `openvino-int8.xml` with its `.bin` (by NNCF's defaults, for OpenVINO).
All ranges come from the same photos. Needs what requirements.txt in this folder lists.
"""

import argparse
from pathlib import Path

import nncf
import numpy as np
import onnx
import openvino
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Photos(CalibrationDataReader):
    def __init__(self, name, photos):
        self.each = ({name: photo[None]} for photo in photos)

    def get_next(self):
        return next(self.each, None)


def is_depthwise(node):
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return node.op_type == "Conv" and groups > 1


def unread(path):
    """Lets everything but dense convolutions read the values that were not rounded, such as a residual."""
    model = onnx.load(path)
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or (node.op_type == "Conv" and not is_depthwise(node)):
            continue
        for index, name in enumerate(node.input):
            before = made.get(name)
            rounded = made.get(before.input[0]) if before is not None and before.op_type == "DequantizeLinear" else None
            if rounded is not None and rounded.op_type == "QuantizeLinear":
                node.input[index] = rounded.input[0]
    onnx.save(model, path)


def onnx_forms(folder, photos):
    cleaned = folder / "cleaned.onnx"
    quant_pre_process(str(folder / "model.onnx"), str(cleaned), skip_symbolic_shape=True)
    graph = onnx.load(cleaned).graph
    name = graph.input[0].name
    apart = [node.name for node in graph.node if is_depthwise(node)]
    common = {"quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QUInt8,
              "weight_type": QuantType.QInt8}
    only = {"QDQKeepRemovableActivations": True, "OpTypesToExcludeOutputQuantization": ["Conv"]}
    quantize_static(str(cleaned), str(folder / "convolutions.onnx"), Photos(name, photos),
                    op_types_to_quantize=["Conv"], nodes_to_exclude=apart, extra_options=only, **common)
    unread(folder / "convolutions.onnx")
    quantize_static(str(cleaned), str(folder / "whole.onnx"), Photos(name, photos), **common)
    cleaned.unlink()


def openvino_form(folder, photos):
    model = openvino.convert_model(str(folder / "model.onnx"))
    given = nncf.Dataset([photo[None] for photo in photos])
    openvino.save_model(nncf.quantize(model, given), str(folder / "openvino-int8.xml"), compress_to_fp16=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=16)
    args = parser.parse_args()
    photos = np.load(args.folder / "photos.npy")[:args.photos]
    onnx_forms(args.folder, photos)
    openvino_form(args.folder, photos)


if __name__ == "__main__":
    main()
