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
    x, dy = tf.constant(x), tf.constant(dy)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **{"training": True, **call})
    gradients = tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)
    return [np.asarray(tf.cast(t, tf.float64)) for t in (y, *gradients)]


def states(layer):
    return [np.asarray(tf.convert_to_tensor(w)) for w in (layer.moving_mean, layer.moving_variance)]
