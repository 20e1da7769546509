"""Stock Keras batch normalization into ours and back: configs, weights, files, predictions."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras

KINDS = [keras_norms.BatchNormalization, keras_norms.SyncBatchNormalization]


def model_with(norm):
    inputs = keras.Input((6, 6, 3))
    hidden = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    hidden = norm(name="norm", epsilon=1e-5)(hidden)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))


def trained(norm, rng):
    keras.utils.set_random_seed(3)
    model = model_with(norm)
    model.compile("sgd", "mse")
    x = rng.normal(2.0, 3.0, (16, 6, 6, 3)).astype(np.float32)
    model.fit(x, np.zeros((16, 4, 4, 2), np.float32), epochs=2, verbose=0)
    return model, x


def check_same(model, other, x):
    for expected, actual in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_allclose(other.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize("synchronized", [False, True])
@pytest.mark.parametrize("way", ["to_ours", "to_stock"])
def test_weight_files_load_both_ways(synchronized, way, rng, tmp_path):
    """Files name layers by class, which must be `BatchNormalization`, synchronized or not."""
    stock = keras.layers.BatchNormalization
    ours = functools.partial(keras_norms.BatchNormalization, synchronized=synchronized)
    source, target = (stock, ours) if way == "to_ours" else (ours, stock)
    model, x = trained(source, rng)
    model.save_weights(tmp_path / "model.weights.h5")
    other = model_with(target)
    other.load_weights(tmp_path / "model.weights.h5")
    check_same(model, other, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["to_ours", "to_stock"])
def test_weights_load_both_ways(kind, way, rng):
    stock = keras.layers.BatchNormalization
    source, target = (stock, kind) if way == "to_ours" else (kind, stock)
    model, x = trained(source, rng)
    other = model_with(target)
    other.set_weights(model.get_weights())
    check_same(model, other, x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_model_file_loads_into_ours(kind, rng, tmp_path):
    model, x = trained(keras.layers.BatchNormalization, rng)
    model.save(tmp_path / "model.keras")
    stock = keras.models.load_model(tmp_path / "model.keras")

    def replace(layer):
        replaced = isinstance(layer, keras.layers.BatchNormalization)
        return (kind if replaced else type(layer)).from_config(layer.get_config())

    clone = keras.models.clone_model(stock, clone_function=replace)
    clone.set_weights(stock.get_weights())
    assert isinstance(clone.get_layer("norm"), kind)
    check_same(model, clone, x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_config_becomes_ours(kind):
    stock = keras.layers.BatchNormalization(axis=1, momentum=0.7, epsilon=1e-4, name="norm")
    stock.build((None, 3, 4, 4))
    layer = kind.from_config(stock.get_config())
    assert (layer.axis, layer.momentum, layer.epsilon, layer.name) == (1, 0.7, 1e-4, "norm")


def test_a_synchronized_stock_config_stays_synchronized():
    config = keras.layers.BatchNormalization().get_config() | {"synchronized": True}
    assert keras_norms.BatchNormalization.from_config(config).synchronized
    layer = keras_norms.SyncBatchNormalization.from_config(config)
    assert layer.synchronized and "synchronized" not in layer.get_config()


def test_first_training_step_agrees_with_stock(rng):
    """Where stock is right: no mask, one device, values near zero. Both moving variances biased."""
    x = rng.normal(size=(32, 5)).astype(np.float32)
    stock, ours = keras.layers.BatchNormalization(), keras_norms.BatchNormalization()
    for layer in (stock, ours):
        layer(tf.constant(x), training=True)
    for expected, actual in zip(stock.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_arguments_of_keras_2():
    config = keras_norms.BatchNormalization().get_config()
    with pytest.warns(UserWarning, match="`fused` is ignored"):
        keras_norms.BatchNormalization.from_config(config | {"fused": True})
    keras_norms.BatchNormalization.from_config(config | {"fused": None, "renorm": False})
    layer = keras_norms.BatchNormalization.from_config(config | {"virtual_batch_size": 4})
    assert layer.virtual_batch_size == 4
    assert keras_norms.BatchNormalization.from_config(config | {"axis": [3]}).axis == 3


@pytest.mark.parametrize("kind", KINDS)
def test_rejects_renorm_and_adjustment(kind):
    config = kind(name="norm").get_config()
    with pytest.raises(ValueError, match=r"is one of BatchRenormalization.*renorm=True.*'norm'"):
        kind.from_config(config | {"renorm": True, "renorm_clipping": None, "renorm_momentum": 0.9})
    with pytest.raises(ValueError, match="`adjustment` of Keras 2 has no counterpart"):
        kind.from_config(config | {"adjustment": lambda shape: shape})


def test_rejects_unknown_arguments():
    error = (ValueError, TypeError)
    with pytest.raises(error, match="renorm" if IS_KERAS_3 else "renorm|Keyword"):
        keras_norms.BatchNormalization(renorm=True)
