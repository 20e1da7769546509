"""Layers in models: functional, Sequential, shared, wrapped, masked, traced, compiled by XLA."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from tests import catalog, oracles, strategies
from tests.conformance import models, rows
from tests.selection import has_keras_2


def test_output_shape_and_symbolic_call(row):
    layer = row.make()
    inputs = keras.Input(row.shape[1:])
    assert tuple(layer(inputs).shape) == (None, *row.shape[1:])
    assert tuple(layer.compute_output_shape((None, *row.shape[1:]))) == (None, *row.shape[1:])


def test_sequential_equals_functional(row, batch, trained):
    layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
    sequential = keras.Sequential([keras.Input(row.shape[1:]), row.make(), *layers])
    sequential.set_weights(trained.get_weights())
    np.testing.assert_allclose(sequential(batch), trained(batch), rtol=1e-6, atol=1e-6)


@rows.ON_BOTH
@pytest.mark.parametrize(
    "policy", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "float64"]
)
def test_dtype_policies(row, implementation, batch, policy):
    layer = row.make(dtype=policy)
    compute = policy.replace("mixed_", "")
    x = tf.constant(batch)
    if policy == "float64":
        x = tf.cast(x, policy)
    y = layer(x, training=True)
    assert y.dtype == compute
    assert layer(x, training=False).dtype == compute
    kept = tf.float64 if policy == "float64" else tf.float32
    # What is accumulated is float64 everywhere, and a counter int64.
    weights = [w for w in layer.weights if "accumulated" not in w.name]
    dtypes = {tf.convert_to_tensor(w).dtype for w in weights}
    assert dtypes - {tf.int64} == {kept}
    exact = row.make(dtype="float64")(tf.cast(tf.cast(x, compute), tf.float64), training=True)
    oracles.assert_close(tf.cast(y, tf.float64), exact, compute)


def test_integer_input_is_cast(row):
    layer = row.make()
    y = layer(tf.ones(row.shape, tf.int32), training=False)
    assert y.dtype == tf.float32


@rows.ON_BOTH
def test_eager_and_traced_agree(row, implementation, batch):
    results = []
    for wrap in (lambda f: f, tf.function):
        layer = row.make()
        layer.build(row.shape)

        def step(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
                loss = tf.reduce_sum(tf.sin(y))
            return y, tape.gradient(loss, x)

        y, dx = wrap(step)(tf.constant(batch))
        results.append([y, dx, *map(tf.convert_to_tensor, layer.weights)])
    for eager, traced in zip(*results, strict=True):
        np.testing.assert_allclose(eager, traced, rtol=1e-6, atol=1e-6)


@rows.ON_BOTH
def test_jit_compiled_steps_agree(row, implementation, batch):
    """One step to rtol 1e-5, the weights after ten steps to 1e-4."""
    results = []
    for jit in (False, True):
        keras.utils.set_random_seed(7)
        model = models.functional(row.make(), row.shape)

        @tf.function(jit_compile=jit)
        def step(x, model=model):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x, training=True)
                loss = tf.add_n([tf.reduce_mean(tf.square(y - 1.0)), *model.losses])
            dx, *gradients = tape.gradient(loss, [x, *model.trainable_variables])
            for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
                variable.assign(variable - 0.1 * gradient)
            return y, dx

        x = tf.constant(batch)
        first = step(x)
        for _ in range(9):
            step(x)
        results.append((first, models.arrays(model)))
    (first, weights), (jit_first, jit_weights) = results
    for expected, actual in zip(first, jit_first, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual / scale, expected / scale, rtol=1e-5, atol=1e-6)
    for expected, actual in zip(weights, jit_weights, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_supports_jit(row):
    assert getattr(row.make(), "supports_jit", True)


def test_shared_layer_updates_once_per_call(row, batch):
    shared, twice = row.make(), row.make()
    inputs = keras.Input(row.shape[1:])
    model = keras.Model(inputs, shared(2.0 + shared(inputs)))
    model(tf.constant(batch), training=True)
    twice.build(row.shape)
    twice(2.0 + twice(tf.constant(batch), training=True), training=True)
    assert len(model.weights) == len(twice.weights)
    for expected, actual in zip(models.arrays(twice), models.arrays(shared), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_time_distributed(row, rng):
    """Every step of the wrapper is a position like others: the batch and time axes merge."""
    if row.options.get("virtual_batch_size"):
        return_shape = (9, 2, *row.shape[1:])
    else:
        return_shape = (4, 3, *row.shape[1:])
    x = tf.constant(rng.normal(size=return_shape).astype(np.float32))
    layer = row.make()
    wrapped = keras.layers.TimeDistributed(layer)
    y = wrapped(x, training=False)
    expected = layer(tf.reshape(x, (-1, *row.shape[1:])), training=False)
    np.testing.assert_allclose(np.reshape(y, expected.shape), expected, rtol=1e-6, atol=1e-6)


def test_a_mask_passes_through_and_counts(rng):
    """From an Embedding with `mask_zero`: padding is excluded and the mask is passed on."""
    tokens = tf.constant([[1, 2, 3, 0], [4, 1, 0, 0]])
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    layer = keras_norms.BatchNormalization(momentum=0.0)
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, layer(embedding(inputs)))
    y = model(tokens, training=True)
    embedded = np.asarray(embedding(tokens))
    mask = np.asarray(tokens) != 0
    _, mean, variance = oracles.moments(embedded, mask=mask)
    scale = np.abs(embedded).max()
    moving = [tf.convert_to_tensor(w) for w in (layer.moving_mean, layer.moving_variance)]
    oracles.assert_close(moving[0], np.ravel(mean), "float32", scale=scale)
    oracles.assert_close(moving[1], np.ravel(variance), "float32", scale=scale**2)
    expected = (embedded - mean) / np.sqrt(variance + 1e-3)
    oracles.assert_close(y, expected, "float32", scale=scale / np.sqrt(1e-3))
    assert layer.supports_masking


def test_masking_layer_before_channels_first(rng):
    """Keras' Masking then masks channels; they are counted one by one, as stock does."""
    x = rng.normal(size=(5, 3, 4)).astype(np.float32)
    x[0, 1], x[3, 1], x[2, 0] = 0.0, 0.0, 0.0
    layer = keras_norms.BatchNormalization(axis=1, momentum=0.0)
    inputs = keras.Input((3, 4))
    keras.Model(inputs, layer(keras.layers.Masking()(inputs)))(x, training=True)
    rows = [[0, 1, 3, 4], [1, 2, 4], [0, 1, 2, 3, 4]]
    expected = [x[kept, c].mean() for c, kept in enumerate(rows)]
    oracles.assert_close(tf.convert_to_tensor(layer.moving_mean), expected, "float32")


@pytest.mark.parametrize("row", rows.ON_REPLICAS, indirect=True)
def test_fit_on_replicas(row, batch, trained):
    """On 2: finite, and as on one device where the statistics are of all samples."""
    with strategies.mirrored(2).scope():
        model = models.trained(row, batch)
    for weight in models.arrays(model):
        assert np.isfinite(weight).all()
    if row.counts_all_replicas:
        alone = row.on_one_device(2)
        expected = trained if alone == row else models.trained(alone, batch)
        models.assert_same_weights(model, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["batch", "sync", "renorm", "batchless"])
def test_fit_compiled_by_xla(rng, name):
    row = catalog.ROWS[name]
    batch = rng.normal(1.0, 2.0, row.shape).astype(np.float32)
    plain = models.trained(row, batch, 10)
    compiled = models.trained(row, batch, 10, jit_compile=True)
    models.assert_same_weights(compiled, plain, rtol=1e-4, atol=1e-5)


def test_the_leg_has_the_right_keras():
    assert IS_KERAS_3 != has_keras_2()
