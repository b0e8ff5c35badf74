"""Small Keras classifiers for the reference fixtures, one for each kind of last convolution and head.

Every network takes [1, 32, 32, 3] pixels of 0 to 255 and reduces them to a map of 8 x 8; the networks differ
in what follows. Batch norms get statistics far from their defaults, so that mistakes in folding show.
Gradients are computed in make.py.
"""

import keras
import numpy as np
from keras import layers as L

SIDE, CLASSES, CHANNELS = 32, 4, 12

# Activations of hidden layers, by Keras's names; "gelu_tanh" is gelu(approximate=True).
ACTIVATIONS = [
    "relu", "relu6", "leaky_relu", "elu", "selu", "silu", "hard_silu", "gelu", "gelu_tanh",
    "sigmoid", "hard_sigmoid", "tanh", "softplus", "softsign", "mish",
]  # fmt: skip


def act(name):
    if name == "gelu_tanh":
        return L.Activation(lambda x: keras.activations.gelu(x, approximate=True))
    return L.Activation(name)


def stem():
    image = keras.Input((SIDE, SIDE, 3))
    x = L.Rescaling(1 / 127.5, -1)(image)
    x = L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = act("silu")(L.BatchNormalization()(x))
    x = L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    return image, act("silu")(L.BatchNormalization()(x))


def last(x, activation="silu", channels=CHANNELS, bias=False, norm=True):
    """The last convolution, named "target", and what follows it, named "map"."""
    x = L.Conv2D(channels, 3, padding="same", use_bias=bias, name="target")(x)
    x = L.BatchNormalization()(x) if norm else x
    return L.Activation("linear", name="map")(act(activation)(x))


def dense(x):
    return L.Dense(CLASSES)(x)


def with_map(activation):
    def build():
        image, x = stem()
        return image, dense(L.GlobalAveragePooling2D()(last(x, activation)))

    return build


def with_hidden(activation):
    def build():
        image, x = stem()
        x = L.GlobalAveragePooling2D()(last(x))
        return image, dense(L.Dropout(0.3)(act(activation)(L.Dense(10)(x))))

    return build


def head_norm():
    image, x = stem()
    x = L.GlobalAveragePooling2D()(last(x))
    return image, dense(L.Dropout(0.2)(L.BatchNormalization()(x)))


def head_deep():
    image, x = stem()
    x = L.BatchNormalization()(L.GlobalAveragePooling2D()(last(x)))
    x = L.Dropout(0.4)(act("silu")(L.BatchNormalization()(L.Dense(10, use_bias=False)(x))))
    x = L.Dropout(0.4)(L.BatchNormalization()(act("relu")(L.Dense(8)(x))))
    return image, dense(act("leaky_relu")(L.Dense(6)(x)))


def head_linear():
    image, x = stem()
    return image, dense(L.Dense(6)(L.Dense(9)(L.GlobalAveragePooling2D()(last(x)))))


def head_pointwise():
    """As MobileNetV3: 1x1 convolutions after the pooling, and flatten at the end."""
    image, x = stem()
    x = L.GlobalAveragePooling2D(keepdims=True)(last(x, "hard_silu"))
    x = act("hard_silu")(L.Conv2D(10, 1)(x))
    return image, L.Flatten()(L.Conv2D(CLASSES, 1)(L.Dropout(0.2)(x)))


def head_plain():
    image, x = stem()
    return image, dense(L.GlobalAveragePooling2D()(last(x)))


def head_none():
    """As SqueezeNet: the last map has a channel for each class."""
    image, x = stem()
    return image, L.GlobalAveragePooling2D()(last(x, "relu", CLASSES, True, False))


def pool_mean():
    image, x = stem()
    return image, dense(L.Lambda(lambda t: keras.ops.mean(t, axis=(1, 2)))(last(x)))


def pool_flatten():
    """An average pooling as large as the map, then flatten."""
    image, x = stem()
    return image, dense(L.Flatten()(L.AveragePooling2D(8)(last(x, "relu"))))


def conv_bias():
    """A convolution with a bias and no batch norm, prepared with --conv-bias own."""
    image, x = stem()
    return image, dense(L.GlobalAveragePooling2D()(last(x, "relu", bias=True, norm=False)))


def conv_bias_norm():
    """A convolution with a bias, then a batch norm."""
    image, x = stem()
    return image, dense(L.GlobalAveragePooling2D()(last(x, "relu", bias=True)))


def residual():
    """As ResNet: the shortcut is added after the batch norm, before the activation."""
    image, x = stem()
    x = act("relu")(L.Conv2D(CHANNELS, 1)(x))
    y = L.Conv2D(CHANNELS, 3, padding="same", use_bias=False, name="target")(x)
    y = L.Activation("linear", name="map")(act("relu")(L.Add()([L.BatchNormalization()(y), x])))
    return image, dense(L.GlobalAveragePooling2D()(y))


def dense_block():
    """As DenseNet: the last convolution is joined to earlier maps, then batch norm and ReLU."""
    image, x = stem()
    y = act("relu")(L.BatchNormalization()(x))
    y = L.Conv2D(4, 3, padding="same", use_bias=False, name="target")(y)
    y = act("relu")(L.BatchNormalization()(L.Concatenate()([x, y])))
    return image, dense(L.GlobalAveragePooling2D()(L.Activation("linear", name="map")(y)))


def depthwise():
    """The last convolution is depthwise; the pointwise one before it does not count."""
    image, x = stem()
    x = L.Conv2D(CHANNELS, 1)(x)
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="target")(x)
    y = act("relu6")(L.BatchNormalization()(y))
    return image, dense(L.GlobalAveragePooling2D()(L.Activation("linear", name="map")(y)))


NETWORKS = {
    **{f"map_{name}": with_map(name) for name in ACTIVATIONS},
    **{f"hidden_{name}": with_hidden(name) for name in ACTIVATIONS},
    **{
        build.__name__: build
        for build in [
            head_norm, head_deep, head_linear, head_pointwise, head_none,
            pool_mean, pool_flatten, conv_bias, conv_bias_norm, residual, dense_block, depthwise,
        ]  # fmt: skip
    },
    "head_sigmoid": head_plain,
    "head_logits": head_plain,
    "head_saturated": head_plain,
}

# Networks whose exported model ends in an activation other than softmax.
FINISH = {"head_sigmoid": "sigmoid", "head_logits": "linear"}

# Spread of the logits of a photo, if it is not 1.5. With 15 the softmax is so close to 0 and 1 that the
# gradient of a probability vanishes on some photos and almost vanishes on others.
SPREAD = {"head_saturated": 15.0}


def build(name, seed, pictures):
    """The network of that name and the same without its softmax, weights drawn from `seed`.

    Its last layer is scaled so that the spread of the logits on `pictures` is 1.5, or the value in SPREAD.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    image, logits = NETWORKS[name]()
    finish = L.Activation(FINISH.get(name, "softmax"))
    model = keras.Model(image, finish(logits))
    scramble(model, seed)
    before = keras.Model(image, logits)
    spread = np.std(before(pictures.astype("float32"), training=False), axis=1).mean()
    kernel = next(l for l in reversed(model.layers) if hasattr(l, "kernel")).kernel
    kernel.assign(kernel * (SPREAD.get(name, 1.5) / spread))
    return model, before


def in_float64(name, before):
    """The network of that name without its softmax, in float64, with the weights of `before`."""
    keras.config.set_dtype_policy("float64")
    exact = keras.Model(*NETWORKS[name]())
    keras.config.set_dtype_policy("float32")
    exact.set_weights(before.get_weights())
    return exact


def scramble(model, seed):
    """Gives biases and batch norms values as in a trained network."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            n = layer.gamma.shape
            layer.gamma.assign(random.uniform(0.6, 1.6, n))
            layer.beta.assign(random.normal(0, 0.4, n))
            layer.moving_mean.assign(random.normal(0, 0.3, n))
            layer.moving_variance.assign(random.uniform(0.05, 0.8, n))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(random.normal(0, 0.3, layer.bias.shape))
