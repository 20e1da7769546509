"""`batch_moments`: literal cases, masks, several axes, second order, bad input."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from tests import oracles
from tests.selection import BOTH

pytestmark = [BOTH, pytest.mark.each_tensorflow]

X = [[[1.0, 10.0], [2.0, 20.0]], [[3.0, 30.0], [6.0, 60.0]]]
CASES = {
    "plain": (None, [3.0, 30.0], [3.5, 350.0], 4.0),
    "bool_rows": ([True, False], [1.5, 15.0], [0.25, 25.0], 2.0),
    "bool_steps": ([[True, False], [True, False]], [2.0, 20.0], [1.0, 100.0], 2.0),
    "weights": ([[1.0, 0.5], [0.0, 0.0]], [4 / 3, 40 / 3], [2 / 9, 200 / 9], 1.5),
    "ints": ([[0, 0], [1, 3]], [5.25, 52.5], [1.6875, 168.75], 4.0),
    "full_rank": ([[[1.0], [1.0]], [[0.0], [0.0]]], [1.5, 15.0], [0.25, 25.0], 2.0),
    "nothing": ([[0, 0], [0, 0]], [0.0, 0.0], [0.0, 0.0], 0.0),
}


@pytest.mark.parametrize("mask, mean, variance, count", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_literal_cases(mask, mean, variance, count, dtype):
    moments = keras_norms.ops.batch_moments(tf.constant(X, dtype), mask=mask)
    rtol = 1e-12 if dtype == tf.float64 else 2e-7
    np.testing.assert_allclose(moments.mean, mean, rtol=rtol)
    np.testing.assert_allclose(moments.variance, variance, rtol=rtol)
    np.testing.assert_array_equal(moments.count, [count])


@pytest.mark.parametrize("axis", [0, 1, 2, -3, [1, 2], [2, 1], [0, 2], [-1, 0]])
def test_any_axes(rng, axis):
    x = rng.normal(size=(3, 4, 5))
    moments = keras_norms.ops.batch_moments(tf.constant(x), axis=axis)
    _, mean, variance = oracles.moments(x, axis)
    oracles.assert_close(moments.mean, np.squeeze(mean), "float64")
    oracles.assert_close(moments.variance, np.squeeze(variance), "float64")


def test_gradient_through_the_mean_is_exact_to_second_order(rng):
    """`tf.nn.moments` stops the gradient through the mean and fails this."""
    x = rng.normal(size=(5, 2))

    def penalty(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            variance = tf.reduce_sum(keras_norms.ops.batch_moments(x).variance ** 2)
        return tf.reduce_sum(tape.gradient(variance, x) ** 2)

    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = penalty(tensor)
    numerical = oracles.numerical_gradient(lambda x: penalty(tf.constant(x)), x)
    np.testing.assert_allclose(tape.gradient(value, tensor), numerical, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(axis=2), r"batch_moments: `axis` must lie in \[-2, 2\).*Received: axis=2"),
        (dict(axis=[0, -2]), r"must not name an axis twice.*Received: axis=\[0, -2\]"),
        (dict(axis=[0, 1]), r"leave at least one to reduce.*Received: axis=\[0, 1\]"),
        (dict(axis=[]), r"must name at least one axis"),
        (dict(axis=1.0), r"`axis` must be an int or a list of ints. Received: axis=1.0"),
        (dict(axis=None), r"`axis` must be an int or a list of ints. Received: axis=None"),
        (dict(mask=[[[True]]]), r"a mask must have the shape of.*\(1, 1, 1\).*\(2, 3\)"),
        (dict(mask=[True] * 3), r"a mask must have the shape of the leading"),
        (dict(mask=np.ones((2, 3))), r"a mask must have the shape of the leading"),
        (dict(mask=True), r"a mask must have the shape of the leading"),
    ],
)
def test_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_norms.ops.batch_moments(tf.ones((2, 3)), **arguments)


def test_rejects_integers():
    with pytest.raises(ValueError, match=r"must be a float tensor. Received: dtype=.*int32"):
        keras_norms.ops.batch_moments(tf.constant([[1, 2]]))
