"""The effective size of a batch: exact for masks, without a scale, and 1 for a single value."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.statistics.effective_size import SIZED_MOMENTS

pytestmark = pytest.mark.each_tensorflow
X = tf.constant(np.random.default_rng(2).normal(size=(6, 2)), tf.float32)


def size_of(weights):
    weights = tf.reshape(tf.constant(weights, tf.float32), [6, 1])
    parts, _ = SIZED_MOMENTS.local(X, axis=1, weights=weights, segment_size=None)
    return SIZED_MOMENTS.finish(parts).size.numpy()


def test_the_size_is_the_count_of_a_mask_and_has_no_scale():
    assert size_of([1, 0, 1, 1, 0, 1]) == 4.0
    weights = np.array([0.2, 0.3, 0.0, 0.5, 0.1, 0.1])
    expected = weights.sum() ** 2 / (weights**2).sum()
    for scale in (1e-20, 1.0, 1e20):
        np.testing.assert_allclose(size_of(weights * scale), expected, rtol=1e-6)


@pytest.mark.parametrize("weight", [0.1, 1.0 + 1e-6, 3.0])
def test_a_single_weight_is_not_corrected(weight):
    layer = keras_norms.BatchNormalization(momentum=0.0, unbiased_moving_variance=True)
    layer(X[:4], training=True, mask=tf.constant([0.0, weight, 0.0, 0.0]))
    np.testing.assert_allclose(layer.moving_variance, [0.0, 0.0], atol=1e-12)
    # Weights that sum to a little above 1: a factor of n / (n - 1) with n of two equal ones.
    half = weight / 2.0
    layer(X[:4], training=True, mask=tf.constant([0.0, half, half, 0.0]))
    expected = np.var(X[1:3], axis=0, ddof=1)
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-5)
