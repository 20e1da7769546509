"""Graphs that stay when a trained model is gone: as many as with stock layers."""

import functools
import gc

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras

FuncGraph = type(tf.function(lambda: 0).get_concrete_function().graph)
X = np.zeros((4, 3), np.float32)


class StockWithMoreWeights(keras.layers.Layer):
    """A stock layer that trains four vectors, as Batchless does. Optimizers trace for each."""

    def build(self, shape):
        self.norm = keras.layers.BatchNormalization()
        self.norm.build(shape)
        self.vectors = [self.add_weight(name=n, shape=shape[-1:]) for n in ("first", "second")]
        self.built = True

    def call(self, x, training=None):
        return self.norm(x, training=training) * self.vectors[0] + self.vectors[1]


def kept(layer, models=1):
    """How many graphs each model leaves that is made, trained and dropped."""

    def train():
        keras.backend.clear_session()
        model = keras.Sequential([keras.Input((3,)), layer(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(X, X[:, :1], verbose=0)

    def count():
        gc.collect()
        return sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())

    train()
    before = count()
    for _ in range(models):
        train()
    return (count() - before) / models


@pytest.fixture
def few_objects():
    """What is there before is neither searched nor counted, which would take seconds each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.main_leg
@pytest.mark.usefixtures("few_objects")
def test_no_more_than_stock():
    stock, more = kept(keras.layers.BatchNormalization), kept(StockWithMoreWeights)
    assert kept(keras_norms.BatchlessNormalization) <= more
    for layer in (
        keras_norms.AdaptiveBatchNormalization,
        keras_norms.BatchNormalization,
        keras_norms.BatchRenormalization,
        functools.partial(keras_norms.LightNormalization, block_size=2),
        keras_norms.RangeBatchNormalization,
        keras_norms.RegularizedBatchNormalization,
    ):
        assert kept(layer) <= stock, layer
