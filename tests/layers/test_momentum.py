"""`momentum` as a number, a schedule, a variable and None, in every layer that has one."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from tests import strategies

RAMP = keras_norms.schedules.LinearRamp(0, 2, 0.9, 0.5)
LAYERS = [
    keras_norms.BatchNormalization,
    keras_norms.SyncBatchNormalization,
    keras_norms.BatchRenormalization,
    keras_norms.RegularizedBatchNormalization,
    functools.partial(keras_norms.RangeBatchNormalization, num_chunks=2),
]
BATCHES = np.random.default_rng(1).normal(2.0, 3.0, (3, 8, 4))
# The share of the old value at the first three training calls.
SHARES = {"number": [0.7] * 3, "schedule": [0.9, 0.7, 0.5], "none": [0.0, 1 / 2, 2 / 3]}
MOMENTA = {"number": 0.7, "schedule": RAMP, "none": None}


def expected(shares):
    mean = np.zeros(4)
    for share, batch in zip(shares, BATCHES, strict=True):
        mean = share * mean + (1.0 - share) * batch.mean(0)
    return mean


@pytest.mark.parametrize("kind", MOMENTA)
@pytest.mark.parametrize("layer_class", LAYERS)
def test_three_training_calls(layer_class, kind):
    layer = layer_class(momentum=MOMENTA[kind], dtype="float64")
    step = tf.function(lambda x: layer(x, training=True))
    layer.build((None, 4))
    for batch in BATCHES:
        step(tf.constant(batch))
    np.testing.assert_allclose(layer.moving_mean, expected(SHARES[kind]), rtol=1e-12)
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config


@pytest.mark.parametrize("kind", ["schedule", "none"])
def test_on_two_replicas(kind):
    strategy = strategies.mirrored(2)
    with strategy.scope():
        layer = keras_norms.SyncBatchNormalization(momentum=MOMENTA[kind], dtype="float64")
        layer.build((None, 4))
    step = tf.function(lambda x: layer(x, training=True))
    for batch in BATCHES:
        strategies.run(strategy, step, [tf.constant(batch[:3]), tf.constant(batch[3:])])
    np.testing.assert_allclose(layer.moving_mean, expected(SHARES[kind]), rtol=1e-12)
    assert int(tf.convert_to_tensor(layer.step)) == 3


@pytest.mark.parametrize("make", [tf.Variable, *([keras.Variable] if IS_KERAS_3 else [])])
def test_a_variable_acts_after_tracing(make):
    momentum = make(0.9, dtype="float64")
    layer = keras_norms.BatchNormalization(momentum=momentum, dtype="float64")
    layer.build((None, 4))
    step = tf.function(lambda x: layer(x, training=True))
    for share, batch in zip(SHARES["schedule"], BATCHES, strict=True):
        momentum.assign(share)
        step(tf.constant(batch))
    np.testing.assert_allclose(layer.moving_mean, expected(SHARES["schedule"]), rtol=1e-12)
    assert len(layer.weights) == 4 and layer.get_config()["momentum"] == 0.5


def test_the_average_of_all_leaves_out_empty_batches():
    layer = keras_norms.BatchNormalization(momentum=None, dtype="float64")
    for batch in BATCHES:
        layer(tf.constant(batch), training=True, mask=tf.zeros(8, tf.bool))
        layer(tf.constant(batch), training=True)
    np.testing.assert_allclose(layer.moving_mean, BATCHES.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, BATCHES.var(1).mean(0), rtol=1e-12)


def test_the_discrepancy_is_read_with_the_momentum_of_the_batch():
    layer = keras_norms.BatchNormalization(momentum=RAMP, name="norm")
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile("sgd", "mse")
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    x = np.array([[1.0], [3.0]])  # Mean 2, from a moving mean of 0.
    model.fit(x, x, batch_size=2, callbacks=[tid], verbose=0)
    np.testing.assert_allclose(tid.history["norm"]["mean"], [2.0], rtol=1e-5)


def test_stock_has_numbers_only():
    layer = keras_norms.BatchRenormalization(momentum=RAMP, r_max=2.0, d_max=1.0)
    with pytest.warns(UserWarning, match="`momentum` that changes"):
        stock = keras_norms.conversion.renorm_to_stock(layer)
    assert stock.momentum == 0.9


@pytest.mark.parametrize("momentum", [1.5, "high", True, [0.9], keras_norms.schedules.LinearRamp])
def test_rejects(momentum):
    with pytest.raises(
        ValueError, match=r"'norm': `momentum` must be a number in \[0, 1\], a sched"
    ):
        keras_norms.BatchNormalization(momentum=momentum, name="norm")


def test_a_momentum_that_is_assigned():
    """As with stock layers, where users freeze the moving statistics by it."""
    layer = keras_norms.BatchNormalization(momentum=0.5, dtype="float64", name="norm")
    layer(tf.constant(BATCHES[0]), training=True)
    before = np.asarray(layer.moving_mean)
    layer.momentum = 1.0
    layer(tf.constant(BATCHES[1]), training=True)
    np.testing.assert_array_equal(layer.moving_mean, before)
    for wrong, rule in (
        (1.5, r"'norm': `momentum` must be a number in \[0, 1\]"),
        (None, "'norm': a `momentum` that needs a count of steps is given at construction"),
        (tf.Variable(0.5), "'norm': a variable for `momentum` is given at construction"),
    ):
        with pytest.raises(ValueError, match=rule):
            layer.momentum = wrong
        assert layer.momentum == 1.0


def test_rejects_a_schedule_that_begins_out_of_range():
    rule = r"'norm': `momentum` must be a number in \[0, 1\] or a Keras schedule. .*at step 0 is 2"
    with pytest.raises(ValueError, match=rule):
        ramp = keras_norms.schedules.LinearRamp(0, 2, 2.0, 0.5)
        keras_norms.BatchNormalization(momentum=ramp, name="norm")


def test_a_variable_is_held_within_its_limits():
    momentum = tf.Variable(0.5)
    layer = keras_norms.BatchNormalization(momentum=momentum, dtype="float64")
    momentum.assign(7.0)
    layer(tf.constant(BATCHES[0]), training=True)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(4))


def test_rejects_a_variable_out_of_range():
    with pytest.raises(ValueError, match="must hold a number in"):
        keras_norms.BatchNormalization(momentum=tf.Variable(2.0))
