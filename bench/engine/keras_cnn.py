"""Writes the small network that most public notebooks on HAM10000 train, from Keras by tf2onnx.

    python keras_cnn.py OUT_FOLDER

Two pairs of 3x3 convolutions, each with a maximum over 2x2, then Flatten and two dense layers, on lesions of 75x100
pixels and seven classes; and the shorter one for lesions of 28x28 pixels (`hmnist_28_28_RGB`). Weights are random
from a seed. Needs `models/keras/requirements.txt`.
"""

import os
import sys
from pathlib import Path

os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"})

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf2onnx  # noqa: E402
from keras import layers  # noqa: E402


def convolution(filters):
    return layers.Conv2D(filters, 3, activation="relu", padding="same")


def larger():
    return [
        keras.Input((75, 100, 3), name="input"),
        convolution(32),
        convolution(32),
        layers.MaxPool2D(2),
        layers.Dropout(0.25),
        convolution(64),
        convolution(64),
        layers.MaxPool2D(2),
        layers.Dropout(0.4),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(7, name="last"),
    ]


def smaller():
    return [
        keras.Input((28, 28, 3), name="input"),
        convolution(32),
        layers.MaxPool2D(2),
        layers.BatchNormalization(),
        convolution(64),
        convolution(64),
        layers.MaxPool2D(2),
        layers.BatchNormalization(),
        convolution(128),
        layers.MaxPool2D(2),
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(7, name="last"),
    ]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, stack in {"ham10000-cnn": larger, "ham10000-cnn-28": smaller}.items():
        keras.utils.set_random_seed(7)
        model = keras.Sequential(stack())
        signature = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32, name="input")

        def classify(input, model=model):
            logits = model(input, training=False)
            return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

        path = folder / f"{name}.onnx"
        function = tf.function(classify, input_signature=[signature])
        tf2onnx.convert.from_function(function, input_signature=[signature], opset=17, output_path=str(path))
        print(f"{name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
