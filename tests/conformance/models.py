"""Small models around a layer of the catalogue."""

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import keras


def functional(layer, shape):
    inputs = keras.Input(shape[1:])
    hidden = keras.layers.Flatten()(layer(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))


def trained(row, batch, steps=3, **compile_options):
    """A functional model after some training steps on a fixed batch."""
    keras.utils.set_random_seed(7)
    model = functional(row.make(name="norm"), row.shape)
    model.compile("sgd", "mse", **compile_options)
    targets = np.ones((len(batch), 2), np.float32)
    model.fit(batch, targets, batch_size=len(batch), epochs=steps, verbose=0)
    return model


def arrays(model):
    return [np.asarray(tf.convert_to_tensor(weight)) for weight in model.weights]
