"""Stock layers with `renorm=True` become ours and the reverse, with everything they compute."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from keras_norms.models.conversion import renorm_from_stock, renorm_to_stock
from keras_norms.schedules import LinearRamp

CLIPPING = dict(rmax=1.3, rmin=1 / 1.3, dmax=0.4)
STATISTICS = dict(
    gamma=[1.5, 0.5, 1.0], beta=[0.1, -0.2, 0.0], moving_mean=[3, 0.5, 0], moving_stddev=[2, 1.5, 1]
)


@pytest.fixture
def x(rng):
    return rng.normal(1.0, 2.0, (12, 4, 3)).astype(np.float32)


def with_statistics(layer, shape):
    if not layer.built:
        layer.build(shape)
    for name, value in STATISTICS.items():
        getattr(layer, name).assign(value)
    if hasattr(layer, "renorm_mean"):
        layer.renorm_mean.assign(STATISTICS["moving_mean"])
        layer.renorm_stddev.assign(STATISTICS["moving_stddev"])
        layer.moving_variance.assign(np.square(STATISTICS["moving_stddev"]) - layer.epsilon)
    return layer


def stock_layer(shape, **options):
    options = dict(momentum=0.9, renorm_momentum=0.9, renorm_clipping=CLIPPING) | options
    return with_statistics(keras.layers.BatchNormalization(renorm=True, **options), shape)


def compare(one, other, x):
    """Inference, a training step and its gradients, and the statistics after it."""
    results = []
    for layer in (one, other):
        inputs = tf.constant(x)
        inference = layer(inputs, training=False)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, training=True)
            loss = tf.reduce_sum(tf.square(y) * inputs)
        gradients = tape.gradient(loss, [inputs, layer.gamma, layer.beta])
        state = [tf.convert_to_tensor(v) for v in (layer.moving_mean, layer.moving_stddev)]
        results.append([inference, y, *gradients, *state])
    for ours, expected in zip(*results, strict=True):
        expected = np.asarray(expected)
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


def test_a_stock_layer_becomes_ours_without_loss(x):
    stock = stock_layer(x.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = renorm_from_stock(stock)
    assert isinstance(ours, keras_norms.BatchRenormalization)
    assert (ours.r_max, ours.d_max, ours.momentum) == (1.3, 0.4, 0.9)
    compare(ours, stock, x)


def test_round_trip_through_a_stock_layer(x):
    ours = with_statistics(
        keras_norms.BatchRenormalization(momentum=0.9, r_max=1.3, d_max=0.4), x.shape
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stock = renorm_to_stock(ours)
        back = renorm_from_stock(stock)
    # Keras 2 writes the axis of a layer that is built from the front.
    assert back.get_config() == {**ours.get_config(), "axis": back.axis}
    assert back.axis % x.ndim == ours.axis % x.ndim
    compare(renorm_from_stock(stock), stock, x)


def test_a_whole_model_converts(x):
    layers = keras.layers
    inputs = keras.Input(x.shape[1:])
    shortcut = layers.BatchNormalization(renorm=True)(inputs)
    y = layers.Conv1D(3, 2, padding="same")(shortcut)
    y = layers.BatchNormalization(renorm=True)(y)
    model = keras.Model(inputs, layers.Dense(2)(layers.Add()([y, shortcut])))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            with_statistics(layer, x.shape)

    def moved(layer):
        if getattr(layer, "renorm", False):
            return renorm_from_stock(layer)
        return type(layer).from_config(layer.get_config())

    ours = keras.models.clone_model(model, clone_function=moved)
    for old, new in zip(model.layers, ours.layers, strict=True):
        if not getattr(old, "renorm", False):
            new.set_weights(old.get_weights())
    kinds = [isinstance(layer, keras_norms.BatchRenormalization) for layer in ours.layers]
    assert sum(kinds) == 2
    np.testing.assert_allclose(ours(x), model(x), rtol=1e-5, atol=1e-5)


def test_warns_where_two_sets_of_statistics_differ(x):
    stock = stock_layer(x.shape)
    stock.renorm_mean.assign([3.5, 0.5, 0.0])
    with pytest.warns(UserWarning, match=r"differ by up to 0.5; moving_mean and .* are used"):
        ours = renorm_from_stock(stock)
    np.testing.assert_allclose(
        ours(x, training=False), stock(x, training=False), rtol=1e-5, atol=1e-5
    )


def test_warns_about_schedules_and_options_without_counterpart(x):
    ours = keras_norms.BatchRenormalization(
        r_max=LinearRamp(0, 4, 1.0, 3.0), d_max=5.0, max_update=4.0, name="norm"
    )
    for _ in range(2):
        ours(x, training=True)
    with pytest.warns(UserWarning, match=r"for max_update, the schedule of `r_max` .*step 2\)"):
        stock = renorm_to_stock(ours)
    assert dict(stock.renorm_clipping) == dict(rmax=2.0, rmin=0.5, dmax=5.0)


def test_arguments_override_the_config():
    stock = keras.layers.BatchNormalization(renorm=True, renorm_clipping=CLIPPING)
    ours = renorm_from_stock(stock, r_max=LinearRamp(0, 9, 1.0, 3.0), d_max=5.0, synchronized=True)
    assert ours.d_max == 5.0 and ours.synchronized and ours.r_max.end_step == 9
    assert not ours.built


@pytest.mark.parametrize(
    "convert, layer, message",
    [
        (renorm_from_stock, keras.layers.BatchNormalization(), "BatchNormalization"),
        (renorm_from_stock, keras_norms.BatchNormalization(), "Received: BatchNormalization"),
        (renorm_to_stock, keras.layers.Dense(2), "must be a BatchRenormalization.*Dense"),
    ],
)
def test_rejects(convert, layer, message):
    with pytest.raises(ValueError, match=message):
        convert(layer)


def test_from_a_stock_config():
    stock = dict(
        name="old",
        axis=[-1],
        momentum=0.9,
        renorm=True,
        renorm_clipping=dict(rmax=3.0, rmin=1 / 3, dmax=5.0),
        renorm_momentum=0.9,
    )
    layer = keras_norms.BatchRenormalization.from_config(stock)
    assert (layer.r_max, layer.d_max, layer.momentum, layer.axis) == (3.0, 5.0, 0.9, -1)
    unclipped = keras_norms.BatchRenormalization.from_config(
        dict(renorm=True, renorm_clipping=None, renorm_momentum=0.99)
    )
    assert (unclipped.r_max, unclipped.d_max) == (float("inf"), float("inf"))


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(momentum=0.99, renorm_momentum=0.9), "`renorm_momentum` 0.9 is not"),
        (dict(renorm_clipping=dict(rmax=3.0, rmin=0.1)), "rmin=0.1 is not used"),
    ],
)
def test_warns_about_what_a_stock_config_loses(config, message):
    with pytest.warns(UserWarning, match=message):
        keras_norms.BatchRenormalization.from_config(dict(renorm=True, **config))
