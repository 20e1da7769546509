"""Data for the model of conftest.py, and how references of it are made and compared."""

import numpy as np

from keras_norms.diagnostics import StatisticsReference
from keras_norms.keras_api import keras

CHANNELS = 24


def images(count, seed):
    """Noise with structure: each image has a brightness and a contrast of its own."""
    rng = np.random.default_rng(seed)
    level, contrast = rng.normal(size=(count, 1, 1, 3)), rng.uniform(0.5, 1.5, (count, 1, 1, 1))
    return (level + contrast * rng.normal(size=(count, 8, 8, 3))).astype(np.float32)


def reference_of(model, data=None, **options):
    data = images(500, 100) if data is None else data
    return StatisticsReference.of(model, data, verbose=0, **options)


def compared(reference, model, data, **options):
    return reference.compare(model, data, verbose=0, **options)


def other_model(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


def compiled(model):
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model
