"""How large values and virtual batches may be, and how small weights: what the docstrings say."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from tests import oracles
from tests.selection import BOTH

pytestmark = pytest.mark.each_tensorflow
SHAPES = {"rows": (130, 40), "folded": (70, 3), "planes": (4, 3, 50), "few": (3, 2)}


def check_moments(x, weights=None):
    found = keras_norms.ops.batch_moments(tf.constant(x), axis=1, mask=weights)
    _, mean, variance = (np.ravel(value) for value in oracles.moments(x, 1, weights))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6 * np.sqrt(variance.max()))
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_moments_of_the_cpu_kernels(native, rng, shape):
    x = rng.normal(size=shape)
    weights = rng.uniform(0.1, 1.0, size=[1 if i == 1 else n for i, n in enumerate(shape)])
    with keras_norms.implementation("native"):
        for scale in (1e18, 1e20, 1e37):
            check_moments((x * scale).astype("float32"))
            check_moments((x * scale).astype("float32"), weights.astype("float32"))
        for scale in (1e-35, 1e-25, 1e25):
            check_moments((x * 1e-8).astype("float32"), (weights * scale).astype("float32"))


@BOTH
def test_moments_of_plain_tensorflow(implementation, rng):
    for shape in SHAPES.values():
        weights = rng.uniform(0.1, 1.0, size=[1 if i == 1 else n for i, n in enumerate(shape)])
        check_moments((rng.normal(size=shape) * 1e16).astype("float32"))
        check_moments(rng.normal(size=shape).astype("float32"), (weights * 1e-30).astype("float32"))


@BOTH
def test_a_moving_variance_stops_below_infinity(implementation):
    x = tf.constant([[-1e25], [1e25]])
    layer = keras_norms.BatchNormalization(momentum=0.5)
    for _ in range(50):
        y = layer(x, training=True)
    assert 3e38 < float(layer.moving_variance[0]) < np.inf
    if implementation == "native":
        np.testing.assert_allclose(y, [[-1.0], [1.0]], rtol=1e-6)
    for _ in range(200):
        layer(tf.constant([[-1.0], [1.0]]), training=True)
    np.testing.assert_allclose(layer.moving_variance, [1.0], rtol=1e-6)


@BOTH
def test_a_virtual_batch_may_be_larger_than_any_batch(implementation, rng):
    x = tf.constant(rng.normal(size=(6, 2)), tf.float32)
    weights = tf.constant([1.0, 1.0, 0.5, 0.0, 1.0, 1.0])
    for mask in (None, weights):
        whole, virtual = (
            keras_norms.BatchNormalization(virtual_batch_size=size)(x, training=True, mask=mask)
            for size in (None, 2**33)
        )
        np.testing.assert_allclose(virtual, whole, rtol=1e-5, atol=1e-6)
