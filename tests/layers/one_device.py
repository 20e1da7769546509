"""A layer on one device: built with weights that are no identity, one training call, its states."""

import numpy as np
import tensorflow as tf

import keras_norms

X = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 1.0], [9.0, -3.0]])


def layer_with(channels, dtype="float64", rng=None, rank=2, **options):
    """A built layer with weights that are not the identity."""
    rng = rng or np.random.default_rng(3)
    layer = keras_norms.BatchNormalization(dtype=dtype, **options)
    layer.build((*[None] * (rank - 1), channels))
    layer.gamma.assign(rng.normal(1.0, 0.2, channels))
    layer.beta.assign(rng.normal(0.0, 0.2, channels))
    return layer


def step(layer, x, dy, **call):
    """y, dx, dgamma, dbeta of one training call."""
    return [
        np.asarray(tf.cast(found, tf.float64)) for found in tensors_of_step(layer, x, dy, **call)
    ]


def tensors_of_step(layer, x, dy, **call):
    x, dy = tf.convert_to_tensor(x), tf.convert_to_tensor(dy)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **{"training": True, **call})
    return y, *tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)


def states(layer):
    return [np.asarray(tf.convert_to_tensor(w)) for w in (layer.moving_mean, layer.moving_variance)]
