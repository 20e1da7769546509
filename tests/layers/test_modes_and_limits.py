"""Modes, masks, and the limits: empty, masked, non-finite and poisoned batches."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from tests import oracles
from tests.layers.one_device import X, layer_with, states, step
from tests.selection import BOTH

pytestmark = BOTH


def test_training_as_a_tensor_selects_and_gates(rng):
    layer = layer_with(2, rng=rng, momentum=0.5)
    layer.moving_mean.assign([0.3, -0.2])
    call = tf.function(lambda x, training: layer(x, training=training))
    before = states(layer)
    x = tf.constant(X)
    np.testing.assert_allclose(call(x, tf.constant(False)), layer(x, training=False), rtol=1e-13)
    np.testing.assert_array_equal(states(layer), before)
    trained = call(x, tf.constant(True))
    expected, (_, mean, _) = oracles.batch_norm(
        X, np.asarray(layer.gamma), np.asarray(layer.beta), 1e-3
    )
    oracles.assert_close(trained, expected, "float64")
    oracles.assert_close(states(layer)[0], 0.5 * before[0] + 0.5 * mean[0], "float64")


def test_nan_stays_in_its_position_where_a_training_tensor_is_false(rng):
    layer = layer_with(2, rng=rng)
    x = X.copy()
    x[1, 0] = np.nan
    call = tf.function(lambda x, training: layer(x, training=training))
    y = call(tf.constant(x), tf.constant(False)).numpy()
    assert np.isnan(y[1, 0]) and np.isfinite(np.delete(y.ravel(), 2)).all()


@pytest.mark.parametrize("training", [None, False, 0, np.bool_(False)])
def test_inference_changes_nothing(training):
    layer = layer_with(2)
    before = states(layer)
    layer(tf.constant(X), training=training)
    np.testing.assert_array_equal(states(layer), before)


def test_frozen_layer_runs_in_inference_mode(rng):
    layer = layer_with(2, rng=rng)
    x = tf.constant(X)
    expected = layer(x, training=False)
    before = states(layer)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), expected)
    np.testing.assert_array_equal(states(layer), before)
    assert layer.trainable_variables == []


@pytest.mark.parametrize("shape", [(0, 2), (0, 3, 2)])
def test_an_empty_batch_changes_nothing(shape):
    layer = layer_with(2, rank=len(shape))
    before = states(layer)
    x = np.zeros(shape)
    y, dx, dgamma, dbeta = step(layer, x, x)
    assert y.shape == dx.shape == shape
    np.testing.assert_array_equal([dgamma, dbeta], np.zeros((2, 2)))
    np.testing.assert_array_equal(states(layer), before)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_fully_masked_batches_leave_every_state_and_stay_finite(dtype):
    layer = keras_norms.BatchNormalization(dtype=dtype)
    x = tf.constant([[1e4, np.nan], [-1e4, 2.0]], dtype)
    mask = tf.constant([False, False])
    for _ in range(3):
        y, dx, *_ = step(layer, x, tf.ones_like(x), mask=mask)
        assert np.isfinite(y).all() and np.isfinite(dx).all()
    np.testing.assert_array_equal(states(layer), [[0.0, 0.0], [1.0, 1.0]])


def test_masked_nan_gives_beta_and_finite_gradients_on_both_sides(rng):
    """NaN at masked positions: y = beta there, and what follows has finite gradients."""
    x = rng.normal(size=(3, 4, 2))
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], bool)
    spoiled = np.where(mask[..., None], x, np.nan)
    layer, dense = layer_with(2, rng=rng, rank=3), keras.layers.Dense(3, dtype="float64")
    dense.build((None, None, 2))
    results = []
    for values in (spoiled, x):
        tensor = tf.constant(values)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            y = layer(tensor, training=True, mask=tf.constant(mask))
            loss = tf.reduce_sum(dense(y)[mask] ** 2)
        targets = [tensor, *layer.trainable_variables, *dense.trainable_variables]
        results.append([y.numpy(), *(np.asarray(g) for g in tape.gradient(loss, targets))])
    spoiled_results, clean_results = results
    beta = np.asarray(tf.convert_to_tensor(layer.beta))
    np.testing.assert_array_equal(spoiled_results[0][~mask], np.broadcast_to(beta, (6, 2)))
    np.testing.assert_array_equal(spoiled_results[0][mask], clean_results[0][mask])
    assert all(np.isfinite(gradient).all() for gradient in spoiled_results)
    np.testing.assert_array_equal(spoiled_results[1][mask], clean_results[1][mask])


def test_infinity_in_the_data_is_not_hidden():
    layer = layer_with(2)
    x = X.copy()
    x[0, 0] = np.inf
    assert np.isnan(layer(tf.constant(x), training=True).numpy()[:, 0]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_skip_nonfinite_updates(bad):
    layer = layer_with(2, skip_nonfinite_updates=True)
    before = states(layer)
    x = X.copy()
    x[0, 0] = bad
    layer(tf.constant(x), training=True)
    np.testing.assert_array_equal(states(layer), before)
    layer(tf.constant(X), training=True)
    assert not np.array_equal(states(layer)[0], before[0])


def test_max_update_bounds_an_outlier_batch():
    layer = layer_with(2, max_update=3.0, momentum=0.99)
    layer(tf.constant(X * 1e9), training=True)
    mean, variance = states(layer)
    assert np.all(np.abs(mean) <= 0.0301 * np.sqrt(1.001))
    assert np.all(variance <= 1.0 + 0.01 * 16.1)


def test_unbiased_moving_variance():
    layer = layer_with(2, unbiased_moving_variance=True, momentum=0.0)
    layer(tf.constant(X), training=True)
    np.testing.assert_allclose(states(layer)[1], [38 / 3, 14 / 3], rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-6, 0.2500001, 1.0])
def test_unbiased_moving_variance_does_not_depend_on_the_scale_of_weights(scale):
    """With weights that sum to a little above 1 the count would be no size of a sample."""
    layer = layer_with(2, unbiased_moving_variance=True, momentum=0.0)
    layer(tf.constant(X), training=True, mask=tf.fill([4], tf.constant(scale, tf.float64)))
    np.testing.assert_allclose(states(layer)[1], [38 / 3, 14 / 3], rtol=1e-12)


def test_each_virtual_batch_is_corrected_by_its_own_size():
    """The unbiased variance of pairs of standard normal values is 1 on average."""
    x = np.random.default_rng(0).normal(size=(20_000, 1))
    layer = layer_with(1, virtual_batch_size=2, unbiased_moving_variance=True, momentum=0.0)
    layer(tf.constant(x), training=True)
    pairs = x.reshape(-1, 2).var(axis=1, ddof=1)
    np.testing.assert_allclose(states(layer)[1], [pairs.mean()], rtol=1e-12)


def test_without_center_and_scale():
    layer = keras_norms.BatchNormalization(center=False, scale=False, dtype="float64")
    y = layer(tf.constant(X), training=True)
    oracles.assert_close(y, oracles.batch_norm(X, 1.0, 0.0, 1e-3)[0], "float64")
    assert [w.name.split("/")[-1].split(":")[0] for w in layer.weights] == [
        "moving_mean",
        "moving_variance",
    ]
    oracles.assert_close(
        layer(tf.constant(X), training=False),
        (X - states(layer)[0]) / np.sqrt(states(layer)[1] + 1e-3),
        "float64",
    )


def test_regularizers_constraints_and_initializers():
    layer = keras_norms.BatchNormalization(
        gamma_initializer=keras.initializers.Constant(2.0),
        beta_initializer=keras.initializers.Constant(-3.0),
        moving_mean_initializer=keras.initializers.Constant(4.0),
        moving_variance_initializer=keras.initializers.Constant(5.0),
        gamma_regularizer=keras.regularizers.L1(0.5),
        beta_regularizer=keras.regularizers.L2(1.0),
        gamma_constraint="non_neg",
    )
    layer.build((None, 2))
    assert [float(np.asarray(tf.convert_to_tensor(w))[0]) for w in layer.weights] == [2, -3, 4, 5]
    assert sorted(float(loss) for loss in layer.losses) == [2.0, 18.0]
    assert layer.gamma.constraint is not None


def test_sizes_unknown_at_tracing_time(rng):
    layer = layer_with(3, "float32", rng, 4)
    signature = [tf.TensorSpec([None, None, None, 3])]
    call = tf.function(lambda x: layer(x, training=True), input_signature=signature)
    for shape in [(2, 3, 4, 3), (1, 1, 1, 3), (0, 2, 2, 3)]:
        x = rng.normal(size=shape).astype(np.float32)
        gamma, beta = np.asarray(layer.gamma), np.asarray(layer.beta)
        expected = oracles.batch_norm(x, gamma, beta, 1e-3)[0]
        oracles.assert_close(call(tf.constant(x)), expected, "float32")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mask_shape", [(4,), (4, 5), (4, 1, 5)])
def test_masks_with_channels_first(rng, channels, mask_shape):
    """Stock raises for each of these, and for a single channel."""
    x = rng.normal(size=(4, channels, 5))
    mask = rng.integers(0, 2, mask_shape)
    mask.flat[0] = 1
    layer = keras_norms.BatchNormalization(axis=1, momentum=0.0, dtype="float64")
    y = layer(tf.constant(x), training=True, mask=tf.constant(mask))
    expected, (_, mean, _) = oracles.batch_norm(x, 1.0, 0.0, 1e-3, axis=1, mask=mask)
    oracles.assert_close(y, expected, "float64")
    oracles.assert_close(states(layer)[0], np.ravel(mean), "float64")


def test_inference_by_a_tensor_keeps_nan_out_of_state_and_other_gradients(rng):
    """With `training` false only when traced, a NaN in one row concerns that position alone."""
    layer = layer_with(2, rng=rng)
    x = X.copy()
    x[0, 0] = np.nan
    before = states(layer)

    @tf.function
    def gradient(x, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=training)[1:])
        return tape.gradient(loss, x)

    dx = gradient(tf.constant(x), tf.constant(False)).numpy()
    scale = np.asarray(tf.convert_to_tensor(layer.gamma)) / np.sqrt(before[1] + 1e-3)
    np.testing.assert_array_equal(states(layer), before)
    np.testing.assert_allclose(dx[1:], np.broadcast_to(scale, (3, 2)), rtol=1e-12)
    assert dx[0, 1] == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_max_update_skips_a_nonfinite_channel(bad):
    layer = layer_with(2, max_update=3.0)
    x = X.copy()
    x[0, 0] = bad
    layer(tf.constant(x), training=True)
    mean, variance = states(layer)
    assert (mean[0], variance[0]) == (0.0, 1.0) and np.isfinite([mean, variance]).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_variable_as_input(rng, training):
    """As in optimizing an input; the variable itself is left alone."""
    layer, twin = layer_with(2), layer_with(2)
    variable = tf.Variable(X)
    with tf.GradientTape() as tape:
        y = layer(variable, training=training)
    assert tape.gradient(y, variable).shape == (4, 2)
    np.testing.assert_array_equal(y, twin(tf.constant(X), training=training))
    np.testing.assert_array_equal(variable, X)


@pytest.mark.parametrize("training", [True, False])
def test_unknown_channels_are_taken_from_the_weights(training):
    layer = layer_with(2)
    signature = [tf.TensorSpec([None, None], tf.float64)]
    call = tf.function(lambda x: layer(x, training=training), input_signature=signature)
    expected = layer_with(2)(tf.constant(X), training=training)
    np.testing.assert_allclose(call(tf.constant(X)), expected, rtol=1e-13)


def test_negative_and_nan_weights_count_as_zero(rng):
    layer = layer_with(2, momentum=0.0)
    layer(tf.constant(X), training=True, mask=tf.constant([1.0, np.nan, -3.0, 2.0]))
    _, mean, _ = oracles.moments(X, mask=[1.0, 0.0, 0.0, 2.0])
    oracles.assert_close(states(layer)[0], mean[0], "float64")
