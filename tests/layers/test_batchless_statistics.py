"""The statistics and arguments of `BatchlessNormalization`: read, set, and rejected."""

import numpy as np
import pytest

import keras_norms
from keras_norms.keras_api import keras
from tests.layers.batchless import BETA, GAMMA, MEAN, STDDEV, WEIGHTS, X, layer_with


@pytest.mark.parametrize("parametrization", WEIGHTS)
def test_statistics_can_be_read_and_set(parametrization):
    for multiplier in (1.0, 8.0):
        layer = layer_with(parametrization=parametrization, learning_rate_multiplier=multiplier)
        np.testing.assert_allclose(layer.statistics.mean, MEAN, rtol=1e-12)
        np.testing.assert_allclose(layer.statistics.stddev, STDDEV, rtol=1e-12)
        np.testing.assert_allclose(layer(X), GAMMA * (X - MEAN) / STDDEV + BETA, rtol=1e-12)
    fresh = keras_norms.BatchlessNormalization(
        parametrization=parametrization,
        mean_initializer=keras.initializers.Constant(3.0),
        stddev_initializer=keras.initializers.Constant(0.25),
        learning_rate_multiplier=2.0,
    )
    fresh.build((None, 2))
    np.testing.assert_allclose(fresh.statistics.mean, [3.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(fresh.statistics.stddev, [0.25, 0.25], rtol=1e-6)


BAD = {
    "parametrization": ("sqrt", "`parametrization` must be one of 'log', 'abs', 'inv'"),
    "nll_weight": (-1.0, "`nll_weight` must be a finite number, at least 0"),
    "learning_rate_multiplier": (0.0, "`learning_rate_multiplier` must be a finite number above 0"),
    "monitor": (1.0, r"`monitor` must be None or a number in \[0, 1\)"),
    "epsilon": (-1e-3, "`epsilon` must be a finite number, at least 0"),
    "center": ("yes", "`center` must be a bool"),
}


@pytest.mark.parametrize("name", BAD)
def test_rejects_bad_arguments(name):
    value, message = BAD[name]
    with pytest.raises(ValueError, match=f"BatchlessNormalization 'norm_a': {message}. Received"):
        keras_norms.BatchlessNormalization(name="norm_a", **{name: value})


@pytest.mark.parametrize(
    "mean, stddev",
    [
        ([np.nan, 0.0], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, 0.0]),
        ([0.0, 0.0], [1.0, np.inf]),
        ([1e39, 0.0], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, 1e-46]),
    ],
)
@pytest.mark.parametrize("parametrization", WEIGHTS)
def test_rejects_invalid_statistics(mean, stddev, parametrization):
    layer = layer_with(dtype="float32", parametrization=parametrization)
    with pytest.raises(ValueError, match="statistics must be finite, the standard deviation above"):
        layer.assign_statistics(mean, stddev)
    np.testing.assert_allclose(layer.statistics.mean, MEAN)


def test_rejects_a_standard_deviation_below_epsilon():
    layer = layer_with(parametrization="abs", epsilon=1e-3)
    with pytest.raises(ValueError, match="the standard deviation above 0.001"):
        layer.assign_statistics(MEAN, [1.0, 1e-4])


def test_rejects_a_layer_that_is_not_built():
    with pytest.raises(ValueError, match="'norm_a': a layer must be built for statistics"):
        keras_norms.BatchlessNormalization(name="norm_a").assign_statistics([0.0], [1.0])


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_rejects_an_invalid_initial_standard_deviation(value):
    layer = keras_norms.BatchlessNormalization(
        name="norm_a", stddev_initializer=keras.initializers.Constant(value)
    )
    with pytest.raises(
        ValueError, match="'norm_a': `stddev_initializer` must give numbers above 0"
    ):
        layer.build((None, 2))


def test_rejects_statistics_of_another_size():
    layer = layer_with()
    with pytest.raises(ValueError, match=r"statistics must have the shape of the weights, \(2,\)"):
        layer.assign_statistics([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
