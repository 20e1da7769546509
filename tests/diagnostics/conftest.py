"""A model for tests of drift, made once. Tests that change its weights restore them."""

import pytest

import keras_norms
from keras_norms.keras_api import keras
from tests.diagnostics import cases


@pytest.fixture(scope="session")
def model():
    """A network whose moving statistics fit the data."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(cases.CHANNELS, 3, use_bias=False),
            keras_norms.BatchNormalization(name="ours", momentum=0.5),
            layers.ReLU(),
            layers.Conv2D(cases.CHANNELS, 3, use_bias=False),
            layers.BatchNormalization(name="stock", momentum=0.5),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    for seed in range(20):
        model(cases.images(64, seed), training=True)
    return model
