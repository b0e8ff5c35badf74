"""Writes an EfficientNetV2-S from Keras in the forms that the engines read, float32 and int8.

    python keras_models.py OUT_FOLDER --photos FOLDER [FOLDER ...] [--side 300] [--pictures 48]

Weights are random from a seed; what `models/keras/familiar.py` says of weak residual branches and of batch norms
with the statistics of pictures holds here too, so that activations have the ranges of pictures. Writes
`model.onnx` (tf2onnx, float32), `float32.tflite`, `int8.tflite` (post-training, full integers inside, ranges from
the photos) and `photos.npy`, the photos as the network takes them. `quantized.py` quantizes model.onnx for the
engines that read ONNX. Needs `models/keras/requirements.txt` and Pillow.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"})

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf2onnx  # noqa: E402
from PIL import Image  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models" / "keras"))
from familiar import settle  # noqa: E402

CLASSES = 7


def pictures(folders, side, most):
    """The photos from -1 to 1, each also mirrored until there are enough."""
    kinds = (".jpg", ".jpeg", ".png", ".webp")
    files = sorted(file for folder in folders for file in Path(folder).rglob("*") if file.suffix.lower() in kinds)
    images = [Image.open(file).convert("RGB").resize((side, side), Image.BILINEAR) for file in files[:most]]
    values = np.stack([np.asarray(image, np.float32) for image in images]) / 127.5 - 1
    return np.concatenate([values, values[:, :, ::-1]])[:most]


def network(side, photos):
    keras.utils.set_random_seed(7)
    base = keras.applications.EfficientNetV2S(weights=None, include_top=False, pooling="avg",
                                              input_shape=(side, side, 3), include_preprocessing=False)
    settle(keras, base, photos)
    logits = keras.layers.Dense(CLASSES, name="logits")(base.output)
    return keras.Model(base.input, logits)


def lite(function, photos=None):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if photos is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([photo[None]] for photo in photos)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--side", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=48)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    photos = pictures(args.photos, args.side, args.pictures)
    np.save(args.folder / "photos.npy", photos)
    model = network(args.side, photos)
    signature = tf.TensorSpec([1, args.side, args.side, 3], tf.float32, name="input")
    function = tf.function(lambda input: {"logits": model(input, training=False)}, input_signature=[signature])
    tf2onnx.convert.from_function(function, input_signature=[signature], opset=17,
                                  output_path=str(args.folder / "model.onnx"))
    concrete = function.get_concrete_function()
    (args.folder / "float32.tflite").write_bytes(lite(concrete))
    (args.folder / "int8.tflite").write_bytes(lite(concrete, photos))
    for file in sorted(args.folder.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
