"""Likely mistakes are warned of once, with the cure."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras

X = np.random.default_rng(0).normal(3.0, 2.0, (8, 4)).astype(np.float32)
CURE = r"'norm': training begins with mean 0.*`keras_norms.initialize_statistics"


def batchless(**options):
    layer = keras_norms.BatchlessNormalization(name="norm", **options)
    return keras.Sequential([keras.Input((4,)), layer])


@pytest.mark.parametrize("traced", [False, True])
def test_statistics_that_were_never_initialized(traced):
    model = batchless()
    step = tf.function(lambda x: model(x, training=True)) if traced else model
    model(X, training=False)
    with pytest.warns(UserWarning, match=CURE):
        step(tf.constant(X), **({} if traced else dict(training=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X, training=True)


def loaded():
    model = batchless()
    model.set_weights([weight + 0.5 for weight in model.get_weights()])
    return model


def initialized():
    model = batchless()
    keras_norms.initialize_statistics(model, X, verbose=0)
    return model


@pytest.mark.parametrize(
    "make",
    [
        loaded,
        initialized,
        lambda: batchless(mean_initializer=keras.initializers.Constant(3.0)),
        lambda: batchless(nll_weight=0.0),
    ],
    ids=["loaded", "initialized", "chosen", "frozen"],
)
def test_statistics_that_were_set_raise_no_warning(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make()(X, training=True)


@pytest.mark.parametrize("size, rows", [(1, 8), (3, 7)])
def test_a_virtual_batch_of_one_value(size, rows):
    layer = keras_norms.BatchNormalization(virtual_batch_size=size, name="norm")
    with pytest.warns(UserWarning, match="'norm': a virtual batch of one value per channel"):
        layer(tf.constant(X[:rows]), training=True)
    layer(tf.constant(X[:rows]), training=True)  # Warnings are errors here: it was said once.


def test_virtual_batches_with_more_values_raise_no_warning():
    layer = keras_norms.BatchNormalization(virtual_batch_size=1)
    layer(tf.constant(X.reshape(2, 4, 4)), training=True)


def test_a_ragged_input_names_the_way_out():
    ragged = tf.ragged.constant([[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]], ragged_rank=1)
    layer = keras_norms.BatchNormalization(name="norm")
    layer.build((None, None, 2))
    with pytest.raises(
        ValueError, match=r"a ragged tensor; pass `inputs.to_tensor\(\)` and a mask"
    ):
        layer.call(ragged, training=True)
