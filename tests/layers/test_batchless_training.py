"""`BatchlessNormalization` in training: statistics, monitor, reported loss."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from tests.layers.batchless import MEAN, STDDEV, WEIGHTS, X, layer_with


@pytest.mark.parametrize("parametrization", WEIGHTS)
@pytest.mark.parametrize("multiplier", [1.0, 4.0])
def test_steps_of_one_instance_add_up_to_the_batch(rng, parametrization, multiplier):
    """The mean of the gradients of N batches of one is the gradient of one batch of N."""
    keras.utils.set_random_seed(3)
    options = dict(parametrization=parametrization, learning_rate_multiplier=multiplier)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="float64"),
            keras.layers.Dense(5, activation="tanh", dtype="float64"),
            keras_norms.BatchlessNormalization(dtype="float64", **options),
            keras.layers.Dense(3, activation="tanh", dtype="float64"),
            keras_norms.BatchlessNormalization(dtype="float64", **options),
            keras.layers.Dense(1, dtype="float64"),
        ]
    )
    x, targets = rng.normal(size=(8, 4)), rng.normal(size=(8, 1))

    def gradients(rows):
        with tf.GradientTape() as tape:
            y = model(tf.constant(x[rows]), training=True)
            loss = tf.reduce_mean((y - targets[rows]) ** 2)
            loss += tf.add_n([tf.cast(loss, tf.float64) for loss in model.losses])
        return [g.numpy() for g in tape.gradient(loss, model.trainable_variables)]

    single = [gradients(slice(i, i + 1)) for i in range(8)]
    for one, whole in zip(zip(*single, strict=True), gradients(slice(None)), strict=True):
        assert np.any(whole)
        np.testing.assert_allclose(np.mean(one, 0), whole, rtol=1e-6, atol=1e-14)


def test_a_frozen_layer_adds_nothing_and_keeps_its_monitor():
    layer = layer_with(monitor=0.5)
    layer.trainable = False
    np.testing.assert_array_equal(layer(X, training=True), layer(X))
    assert layer.losses == [] and float(tf.convert_to_tensor(layer.second_moment)) == 1.0


def test_the_monitor_is_a_moving_average_of_the_second_moment():
    layer, expected = layer_with(monitor=0.9), 1.0
    for scale in (1.0, 3.0, 0.5):
        layer(tf.constant(scale * X), training=True)
        second = ((scale * X - MEAN) ** 2 / STDDEV**2).mean()
        expected = 0.9 * expected + 0.1 * second
    np.testing.assert_allclose(tf.convert_to_tensor(layer.second_moment), expected, rtol=1e-12)
    assert [w.name for w in layer_with().non_trainable_weights] == []


@pytest.mark.parametrize("name", ["SGD", "momentum", "Adam", "RMSprop"])
def test_the_learning_rate_multiplier_scales_steps_under_every_optimizer(rng, name):
    """Scaling the gradient would do nothing under Adam; the weight is divided instead."""
    optimizers = {
        "SGD": lambda rate: keras.optimizers.SGD(rate),
        "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
        "Adam": lambda rate: keras.optimizers.Adam(rate, epsilon=1e-12),
        "RMSprop": lambda rate: keras.optimizers.RMSprop(rate, epsilon=1e-12),
    }
    batches = rng.normal(1.0, 2.0, (4, 16, 2))

    def moved(multiplier, rate):
        layer = layer_with(learning_rate_multiplier=multiplier)
        optimizer = optimizers[name](rate)
        for batch in batches:
            with tf.GradientTape() as tape:
                layer(tf.constant(batch), training=True)
                (loss,) = layer.losses
            gradients = tape.gradient(loss, layer.statistics_weights)
            optimizer.apply_gradients(zip(gradients, layer.statistics_weights, strict=True))
        return np.concatenate([*layer.statistics])

    np.testing.assert_allclose(moved(5.0, 1e-3), moved(1.0, 5e-3), rtol=1e-6)
    assert np.max(np.abs(moved(5.0, 1e-3) - moved(1.0, 1e-3))) > 1e-4


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_the_reported_loss_is_that_of_the_task(rng, optimizer):
    x, y = rng.normal(size=(16, 4)).astype(np.float32), np.ones((16, 1), np.float32)
    losses = []
    for weight in (0.0, 2.0):
        keras.utils.set_random_seed(5)
        layer = keras_norms.BatchlessNormalization(nll_weight=weight)
        model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
        model.compile(getattr(keras.optimizers, optimizer)(1e-2), "mse")
        losses.append(model.fit(x, y, batch_size=16, verbose=0).history["loss"])
        moved = np.abs(tf.convert_to_tensor(layer.mean)).max() > 0
        assert moved == (weight > 0)
        assert model.evaluate(x, y, verbose=0) > 0
    assert losses[0] == losses[1]


def test_statistics_follow_the_data(rng):
    x = rng.normal([5.0, -2.0], [3.0, 0.5], (512, 2)).astype(np.float32)
    layer = keras_norms.BatchlessNormalization(monitor=0.9)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, x, batch_size=1, epochs=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(layer.statistics.mean, x.mean(0), atol=0.5)
    np.testing.assert_allclose(layer.statistics.stddev, x.std(0), rtol=0.25)
