"""Small nets written by hand with heads, inputs and outputs that are less usual, in Keras 3 and Keras 2."""

import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from zoo_nets import keras_nets
from zoo_nets.look import Net
from zoo_nets.nets import OWN_KERAS
from zoo_nets.served import CLASSES, photos

SIDE = 64
WIDTH = 24
OLD = ("Keras 2 layer norm", "Keras 2 ConvNeXt")


def body(x, norm=layers.BatchNormalization):
    """Convolutions to a map [1, 8, 8, 24]."""
    x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    for width in (12, 16, WIDTH):
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(norm()(x))
    return x


def functional(head, side=SIDE, norm=layers.BatchNormalization, before=None):
    """The body and what `head` makes of its map."""
    image = keras.Input((side, side, 3), name="photo")
    x = before(image) if before else image
    return keras.Model(image, head(body(x, norm)))


def softmax(x):
    return layers.Dense(CLASSES, activation="softmax", name="scores")(x)


def labels_apart():
    return functional(lambda x: layers.Dense(CLASSES, activation="sigmoid", name="scores")(layers.GlobalMaxPooling2D()(x)))


def photo_and_age():
    image, age = keras.Input((SIDE, SIDE, 3), name="photo"), keras.Input((1,), name="age")
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(body(image)), layers.Dense(4, activation="relu")(age)])
    return keras.Model([image, age], softmax(x))


class Attended(keras.Model):
    """A subclass whose head weighs the places of the map by a softmax over them."""

    def __init__(self):
        super().__init__()
        image = keras.Input((SIDE, SIDE, 3))
        self.body = keras.Model(image, body(image))
        self.gate, self.head = layers.Dense(1), layers.Dense(CLASSES, activation="softmax", name="scores")
        self.weighed = layers.Multiply()

    def call(self, x):
        x = ops.reshape(self.body(x), (-1, 64, WIDTH))
        weights = ops.softmax(self.gate(ops.tanh(x)), axis=1)
        return self.head(ops.sum(self.weighed([x, weights]), axis=1))


def attended():
    model = Attended()
    model(np.zeros((1, SIDE, SIDE, 3), "float32"))
    return model


def lstm(x):
    x = layers.Reshape((8, 8 * WIDTH))(x)
    return softmax(layers.Bidirectional(layers.LSTM(10))(x))


def eca(x):
    gate = layers.Reshape((WIDTH, 1))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv1D(1, 3, padding="same", use_bias=False, activation="sigmoid")(gate)
    x = layers.Multiply()([x, layers.Reshape((1, 1, WIDTH))(gate)])
    return softmax(layers.GlobalAveragePooling2D()(x))


def two_outputs():
    image = keras.Input((SIDE, SIDE, 3), name="photo")
    pooled = layers.GlobalAveragePooling2D(name="features")(body(image))
    return keras.Model(image, [softmax(pooled), layers.Dense(2, name="sex")(pooled)])


def transformer(x):
    """As Keras's example of a ViT: attention over the places, and a dense layer over all tokens."""
    x = layers.Reshape((64, WIDTH))(x)
    # Positions made from the input, so that their embedding is one of the model's layers.
    positions = ops.cast(ops.cumsum(ops.ones_like(x[..., 0]), axis=1) - 1, "int32")
    x = x + layers.Embedding(64, WIDTH)(positions)
    for _ in range(2):
        n = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(3, 8)(n, n)])
        n = layers.LayerNormalization(epsilon=1e-6)(x)
        n = layers.Dense(WIDTH)(layers.Dense(40, activation="gelu")(n))
        x = layers.Add()([x, n])
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    return softmax(layers.Dropout(0.5)(layers.Dense(32, activation="gelu")(x)))


def ordinal(x):
    """Cumulative probabilities of seven grades; the answer is their differences."""
    above = layers.Dense(CLASSES - 1, activation="sigmoid", name="scores")(layers.GlobalAveragePooling2D()(x))
    above = ops.flip(ops.cumprod(above, axis=1), axis=1)
    above = ops.flip(above, axis=1)
    one = ops.ones_like(above[:, :1])
    return ops.concatenate([one, above], axis=1) - ops.concatenate([above, ops.zeros_like(one)], axis=1)


def pooled(x):
    return softmax(layers.GlobalAveragePooling2D()(x))


NETS = {
    "labels apart, max pooling": labels_apart, "photo and age": photo_and_age, "subclass, attention pooling": attended,
    "group norm, flatten": lambda: functional(lambda x: softmax(layers.Flatten()(x)), norm=lambda: layers.GroupNormalization(4)),
    "LSTM over rows": lambda: functional(lstm), "ECA": lambda: functional(eca),
    "crop inside": lambda: functional(pooled, 96, before=layers.CenterCrop(SIDE, SIDE)), "two outputs": two_outputs,
    "transformer": lambda: functional(transformer), "ordinal": lambda: functional(ordinal),
}  # fmt: skip


def old(name):
    """A net of Keras 2 with layer norms over its maps."""
    import tf_keras

    old = tf_keras.layers
    image = old.Input((SIDE, SIDE, 3))
    x = old.Rescaling(1 / 127.5, offset=-1)(image)
    for width in (12, 16, WIDTH):
        x = old.LayerNormalization()(old.Conv2D(width, 3, strides=2, padding="same")(x))
        if name == "Keras 2 ConvNeXt":
            y = old.LayerNormalization(epsilon=1e-6)(old.DepthwiseConv2D(5, padding="same")(x))
            x = old.Add()([x, old.Dense(width)(old.Dense(2 * width, activation="gelu")(y))])
        else:
            x = old.Activation("relu")(x)
    x = old.GlobalAveragePooling2D()(x)
    if name == "Keras 2 ConvNeXt":
        x = old.LayerNormalization(epsilon=1e-6)(x)
    return tf_keras.Model(image, old.Dense(CLASSES, activation="softmax", name="scores")(x))


def stirred(model, side, given=lambda batch: batch):
    """Gives norms statistics and weights as after training, and classes that differ between photos."""
    random = np.random.default_rng(3)
    seen = np.stack(photos(side, side)).astype("float32")
    norms = [layer for layer in model._flatten_layers() if "Normalization" in type(layer).__name__]
    for layer in norms:
        for weight, low, high in ((layer.gamma, 0.7, 1.3), (layer.beta, -0.3, 0.3)):
            weight.assign(random.uniform(low, high, weight.shape))
        if hasattr(layer, "momentum"):
            layer.momentum = 0.5
    for _ in range(8):
        model(given(seen), training=True)
    last = [layer for layer in model._flatten_layers() if layer.name == "scores"][-1]
    last.kernel.assign(last.kernel * 3)
    return model


class KeptOld(keras_nets.Kept):
    """The same for the layers of Keras 2."""

    @property
    def owners(self):
        import tf_keras

        return (tf_keras.layers.Layer,)


def exact_copy(name, model):
    """The same model in double precision."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if name in OLD:
        import tf_keras

        tf_keras.backend.set_floatx("float64")
    exact = old(name) if name in OLD else NETS[name]()
    exact.set_weights(model.get_weights())
    return exact


def make(_, name, folder):
    keras.utils.set_random_seed(3)
    tf.random.set_seed(3)
    side = 96 if name == "crop inside" else SIDE
    given = lambda batch: batch
    if name == "photo and age":
        given = lambda batch: [batch, np.full((len(batch), 1), 0.5, batch.dtype)]
    model = stirred(old(name) if name in OLD else NETS[name](), side, given)
    ending = OWN_KERAS[name]
    file = folder / ("saved" if ending == "SavedModel" else f"net{ending}")
    if ending == "SavedModel":
        model.export(str(file), input_signature=[keras.InputSpec(shape=(None, side, side, 3), dtype="float32")], verbose=False)
    else:
        model.save(file)
    flags = {"photo and age": ["--input-default", "age=0.5"], "two outputs": ["--scores", "scores"]}.get(name, [])
    look = keras_nets.reference(exact_copy(name, model), given, KeptOld if name in OLD else keras_nets.Kept)
    return Net(file, [*flags, "--preprocess", "keras", "--python", sys.executable], (side, side), look, exported=ending)
