"""`BatchlessNormalization` against its formulas in NumPy float64."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from tests import oracles
from tests.layers.batchless import (
    BETA,
    DY,
    GAMMA,
    MEAN,
    STDDEV,
    WEIGHTS,
    X,
    expected_gradients,
    layer_with,
    loss_gradients,
)
from tests.selection import BOTH

pytestmark = BOTH


GOLDEN = {
    "log": [-0.8125, -0.33333333],
    "abs": [-0.40625, -0.22222222],
    "inv": [1.625, 0.5],
}


@pytest.mark.parametrize("parametrization", WEIGHTS)
def test_golden_vectors(parametrization):
    layer = layer_with(parametrization=parametrization)
    assert [w.name.split("/")[-1].split(":")[0] for w in layer.statistics_weights] == [
        "mean",
        WEIGHTS[parametrization],
    ]
    by_mean, by_stored = loss_gradients(layer)
    np.testing.assert_allclose(by_mean, [-0.125, 0.11111111], rtol=1e-7)
    np.testing.assert_allclose(by_stored, GOLDEN[parametrization], rtol=1e-7)


@pytest.mark.parametrize("parametrization", WEIGHTS)
@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_the_added_gradient_is_that_of_the_likelihood(parametrization, epsilon):
    layer = layer_with(parametrization=parametrization, epsilon=epsilon)
    mean, stored = (tf.convert_to_tensor(v).numpy() for v in layer.statistics_weights)

    def likelihood(mean, stored):
        if parametrization == "log":
            log_stddev, inverse = stored, np.exp(-stored)
        elif parametrization == "abs":
            log_stddev, inverse = np.log(np.abs(stored) + epsilon), 1 / (np.abs(stored) + epsilon)
        else:
            log_stddev, inverse = -np.log(np.abs(stored) + epsilon), stored
        return np.mean(log_stddev) + 0.5 * np.mean(((X - mean) * inverse) ** 2)

    by_mean, by_stored = loss_gradients(layer)
    expected = oracles.numerical_gradient(lambda m: likelihood(m, stored), mean)
    np.testing.assert_allclose(by_mean, expected, rtol=1e-7, atol=1e-9)
    expected = oracles.numerical_gradient(lambda s: likelihood(mean, s), stored)
    np.testing.assert_allclose(by_stored, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parametrization", WEIGHTS)
def test_outputs_and_the_gradient_of_the_task(parametrization, training):
    layer = layer_with(parametrization=parametrization)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
    weights = [layer.gamma, layer.beta, *layer.statistics_weights]
    gradients = tape.gradient(y, [x, *weights], output_gradients=tf.constant(DY))
    z = (X - MEAN) / STDDEV
    np.testing.assert_allclose(y, GAMMA * z + BETA, rtol=1e-12)
    np.testing.assert_allclose(gradients[0], DY * GAMMA / STDDEV, rtol=1e-12)
    np.testing.assert_allclose(gradients[1], (DY * z).sum(0), rtol=1e-12)
    np.testing.assert_allclose(gradients[2], DY.sum(0), rtol=1e-12)
    for gradient in gradients[3:]:  # The task never moves the statistics.
        assert gradient is None or not np.any(gradient)
    assert len(layer.losses) == int(training)


def test_second_order_gradients_of_the_task():
    layer = layer_with()
    x, dy = tf.constant(X), tf.constant(DY)

    def penalty(x):
        with tf.GradientTape() as tape:
            tape.watch([x, dy])
            y = tf.reduce_sum(dy * tf.sin(layer(x, training=True)))
        dx, dgamma = tape.gradient(y, [x, layer.gamma])
        return tf.reduce_sum(dx**2) + tf.reduce_sum(dgamma**3)

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = penalty(x)
    expected = oracles.numerical_gradient(lambda x: penalty(tf.constant(x)), X)
    np.testing.assert_allclose(tape.gradient(value, x), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("axis, shape", [(-1, (6, 5, 3)), (1, (6, 3, 5)), (2, (2, 5, 3, 4))])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_layouts_masks_and_dtypes(rng, axis, shape, masked, dtype):
    x = tf.cast(rng.normal(2.0, 1.5, shape), dtype)
    exact = tf.cast(x, tf.float64).numpy()
    mask = rng.integers(0, 2, shape[0]).astype(bool) if masked else None
    layer = keras_norms.BatchlessNormalization(axis=axis, dtype=dtype)
    layer.build(shape)
    mean, stddev = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 0.5])
    layer.assign_statistics(mean, stddev)
    found = loss_gradients(layer, x, mask)
    by_mean, by_log = expected_gradients(exact, mask, mean, stddev, axis)
    np.testing.assert_allclose(found[0], by_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], by_log, rtol=1e-5, atol=1e-6)
    vector = [-1 if a == axis % len(shape) else 1 for a in range(len(shape))]
    y = (exact - mean.reshape(vector)) / stddev.reshape(vector)
    oracles.assert_close(tf.cast(layer(x), tf.float64), y, dtype)
    oracles.assert_close(tf.cast(layer(x, training=True, mask=mask), tf.float64), y, dtype)


def test_nan_under_a_mask_reaches_nothing():
    x = np.where([[True], [True], [False], [True]], X, np.nan)
    mask = np.array([True, True, False, True])
    layer = layer_with(monitor=0.5)
    by_mean, by_log = loss_gradients(layer, x, mask)
    expected = expected_gradients(X, mask)
    np.testing.assert_allclose(by_mean, expected[0], rtol=1e-12)
    np.testing.assert_allclose(by_log, expected[1], rtol=1e-12)
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        y = layer(tensor, training=True, mask=mask)
    gradients = tape.gradient(y, [tensor, layer.gamma])
    assert all(np.isfinite(v).all() for v in (y, *gradients))
    assert np.isfinite(float(tf.convert_to_tensor(layer.second_moment)))


def test_a_fully_masked_batch_moves_nothing():
    layer = layer_with(monitor=0.5)
    before = float(tf.convert_to_tensor(layer.second_moment))
    for gradient in loss_gradients(layer, X, np.zeros(4, bool)):
        np.testing.assert_array_equal(gradient, np.zeros(2))
    assert float(tf.convert_to_tensor(layer.second_moment)) == before


@pytest.mark.parametrize("training", [True, False])
def test_training_given_as_a_tensor(training):
    layer = layer_with(monitor=0.5)

    @tf.function
    def gradients(x, training):
        with tf.GradientTape() as tape:
            layer(x, training=training)
            (loss,) = layer.losses
        return tape.gradient(loss, layer.statistics_weights)

    by_mean, by_log = gradients(tf.constant(X), tf.constant(training))
    expected = expected_gradients(X)
    np.testing.assert_allclose(by_mean, training * expected[0], rtol=1e-12)
    np.testing.assert_allclose(by_log, training * expected[1], rtol=1e-12)
    second = ((X - MEAN) ** 2 / STDDEV**2).mean()
    found = float(tf.convert_to_tensor(layer.second_moment))
    np.testing.assert_allclose(found, 0.5 + 0.5 * second if training else 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", ["BatchNormalization", "BatchlessNormalization"])
def test_float_masks_keep_their_values_under_half_precision(name):
    """Keras would cast a weight of 1e5 to float16, which is infinite."""
    layer = getattr(keras_norms, name)(dtype="mixed_float16")
    layer.build((None, 1))
    with tf.GradientTape() as tape:
        y = layer(np.array([[1.0], [3.0]], "f"), training=True, mask=tf.constant([1e5, 1e5]))
        losses = [tf.reduce_sum(tf.cast(y, tf.float32)), *layer.losses]
    gradients = tape.gradient(losses, layer.trainable_variables)
    assert y.dtype == "float16" and np.isfinite(y).all()
    for value in [*layer.weights, *gradients]:
        assert np.isfinite(tf.convert_to_tensor(value)).all()


def test_a_loss_weight_scales_the_gradient():
    single, triple = (loss_gradients(layer_with(nll_weight=w)) for w in (1.0, 3.0))
    for one, three in zip(single, triple, strict=True):
        np.testing.assert_allclose(three, 3.0 * one, rtol=1e-12)
