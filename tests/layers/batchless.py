"""A Batchless layer with weights that are not the identity, and what its loss does to them."""

import numpy as np
import tensorflow as tf

import keras_norms
from tests import oracles

X = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 1.0], [9.0, -3.0]])
DY = np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 0.0], [2.0, 1.0]])
GAMMA, BETA = np.array([1.5, 0.5]), np.array([0.1, -0.2])
MEAN, STDDEV = np.array([3.0, 0.5]), np.array([2.0, 1.5])
WEIGHTS = {"log": "log_stddev", "abs": "stddev", "inv": "inverse_stddev"}


def layer_with(dtype="float64", shape=(None, 2), **options):
    layer = keras_norms.BatchlessNormalization(dtype=dtype, **{"epsilon": 0.0, **options})
    layer.build(shape)
    for variable, value in ((layer.gamma, GAMMA), (layer.beta, BETA)):
        if variable is not None:
            variable.assign(tf.cast(value, variable.dtype))
    layer.assign_statistics(MEAN, STDDEV)
    return layer


def loss_gradients(layer, x=X, mask=None):
    """What the added loss does to mean and standard deviation."""
    x = tf.cast(x, layer.compute_dtype)
    with tf.GradientTape() as tape:
        layer(x, training=True, mask=mask)
        (loss,) = layer.losses
    assert float(loss) == 0.0
    return [g.numpy() for g in tape.gradient(loss, layer.statistics_weights)]


def expected_gradients(x, mask=None, mean=MEAN, stddev=STDDEV, axis=-1):
    """Of the negative log-likelihood, by the mean and log(stddev)."""
    w = oracles.weights_like(x, axis, mask)
    axes = oracles.reduction_axes(x, axis)
    shape = [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]
    centred = np.where(w > 0, x - np.reshape(mean, shape), 0.0)
    count = np.maximum(w.sum(axes), 1e-300)
    channels = np.size(mean)
    first = (w * centred).sum(axes) / count
    second = (w * centred**2).sum(axes) / count
    present = 1.0 * (w.sum(axes) > 0)
    by_mean = -present * first / stddev**2 / channels
    return by_mean, present * (1.0 - second / stddev**2) / channels
