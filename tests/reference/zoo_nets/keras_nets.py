"""Nets of keras.applications with seeded weights, and Keras's own results for them."""

import sys

import keras
import numpy as np
import tensorflow as tf
from keras.src.ops.operation import Operation

from zoo_nets.look import Net, Seen, Tensor
from zoo_nets.nets import KERAS
from zoo_nets.served import CLASSES, photos


class Kept:
    """Keeps every map that a call of a model computes, by layer, and the inputs of layers' activations."""

    owners = (Operation, keras.layers.Layer)

    def __init__(self):
        self.found = []

    def keep(self, name, value):
        if tf.is_tensor(value) and len(value.shape) in (3, 4):
            self.found.append((name, value))

    def __enter__(self):
        self.held = [(owner, owner.__call__) for owner in self.owners]
        kept = self

        def wrapped(call):
            def inside(layer, *args, **kwargs):
                activation = getattr(layer, "activation", None)
                # A recurrent layer's activation belongs to its cell, which runs inside a loop.
                own = not isinstance(getattr(type(layer), "activation", None), property)
                plain = own and callable(activation) and getattr(activation, "__name__", "") != "linear"
                if plain and not isinstance(activation, keras.layers.Layer):
                    layer.activation = lambda x: kept.keep(layer.name, x) or activation(x)
                try:
                    made = call(layer, *args, **kwargs)
                finally:
                    if plain and not isinstance(activation, keras.layers.Layer):
                        layer.activation = activation
                kept.keep(layer.name, made)
                return made

            return inside

        for owner, call in self.held:
            owner.__call__ = wrapped(call)
        return self

    def __exit__(self, *_):
        for owner, call in self.held:
            owner.__call__ = call


def reference(model, given=lambda batch: batch, keeper=Kept):
    """Keras's own results: `predict` for the probabilities, a gradient tape for the maps.

    `given` makes the model's inputs of a batch of photos. Of several outputs the first has the scores."""
    single = lambda answer: answer[0] if isinstance(answer, (list, tuple)) else answer

    def look(photo):
        batch = given(photo[None].astype("float64"))
        probabilities = single(model.predict(batch, verbose=0))[0]
        image = tf.nest.map_structure(tf.constant, batch)
        with tf.GradientTape(persistent=True) as tape, keeper() as kept:
            tape.watch(image)
            answer = single(model(image, training=False))
            each = [answer[0, index] for index in range(CLASSES)]
        made = [Tensor(name, value.numpy().astype("float64"), value) for name, value in kept.found]

        def gradient(index, handle):
            found = tape.gradient(each[index], handle)
            return np.zeros(handle.shape) if found is None else tf.convert_to_tensor(found).numpy().astype("float64")

        return Seen(probabilities, made, gradient)

    return look


def stirred(model, side):
    """Gives the net statistics as after training, and scores that differ between photos."""
    random = np.random.default_rng(1)
    seen = np.stack(photos(side, side)).astype("float32")
    # Inverted photos as well, so that no channel's statistics are those of three photos alone.
    batch = np.concatenate([seen, 255 - seen])
    flat = list(model._flatten_layers())
    for layer in flat:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
            if layer.gamma is not None:
                layer.gamma.assign(layer.gamma * random.uniform(0.7, 1.3, layer.gamma.shape))
            layer.beta.assign(layer.beta + random.uniform(-0.3, 0.3, layer.beta.shape))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(layer.bias + random.uniform(-0.1, 0.1, layer.bias.shape))
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in flat):
        for _ in range(8):
            model(batch, training=True)
    last = [layer for layer in flat if getattr(layer, "units", getattr(layer, "filters", None)) == CLASSES][-1]
    logits = lambda: (lambda scores: scores - scores.mean(1, keepdims=True))(np.log(model.predict(seen, verbose=0) + 1e-30))
    spread = (logits() - logits().mean(0)).std()
    # A larger factor would make float32's rounding visible.
    last.kernel.assign(last.kernel * np.clip(1 / max(spread, 1e-6), 0.1, 10))
    last.bias.assign(last.bias - logits().mean(0) + random.uniform(-0.5, 0.5, CLASSES))
    return model


def make(_, name, folder):
    side, ending = KERAS[name]
    keras.utils.set_random_seed(1)
    build = lambda: getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=CLASSES)
    model = stirred(build(), side)
    file = folder / f"net{ending}"
    model.save(file)
    # The reference is computed in double precision.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    exact = build()
    exact.set_weights(model.get_weights())
    # Nets with a separate preprocess_input take its range; both sides of the comparison use the same numbers.
    return Net(file, ["--preprocess", "keras", "--python", sys.executable], (side, side), reference(exact),
               exported=ending, single=lambda photo: model.predict(photo[None].astype("float32"), verbose=0)[0])
