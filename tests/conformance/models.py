"""Small models around a layer of the catalogue."""

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import keras


def functional(layer, shape):
    inputs = keras.Input(shape[1:])
    hidden = keras.layers.Flatten()(layer(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))


def fit(model, batch, steps):
    """Steps of training on a fixed batch."""
    repeated, targets = np.tile(batch, [steps] + [1] * (batch.ndim - 1)), np.ones((1, 2), "f")
    targets = np.repeat(targets, len(repeated), 0)
    model.fit(repeated, targets, batch_size=len(batch), shuffle=False, verbose=0)


def trained(row, batch, steps=3, **compile_options):
    """A functional model after some steps of training."""
    keras.utils.set_random_seed(7)
    model = functional(row.make(name="norm"), row.shape)
    model.compile(keras.optimizers.SGD(0.05), "mse", **compile_options)
    fit(model, batch, steps)
    return model


def arrays(model):
    return [np.asarray(tf.convert_to_tensor(weight)) for weight in model.weights]


def assert_same_weights(actual, expected, **tolerance):
    """Bit by bit, unless a tolerance is given."""
    tolerance = tolerance or dict(rtol=0, atol=0)
    for one, other in zip(arrays(actual), arrays(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)
