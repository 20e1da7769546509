"""`exclude_statistics_from_weight_decay`: what no longer decays, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from tests.test_initialization import branching, states


@pytest.fixture
def x(rng):
    return rng.normal([3.0, -5.0, 0.5], [2.0, 0.1, 7.0], (45, 3)).astype(np.float32)


def test_leaves_the_statistics_alone(x):
    """With a gradient of 0 only the decay moves a weight."""
    model = branching()
    keras_norms.initialize_statistics(model, x, verbose=0)
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    excluded = keras_norms.exclude_statistics_from_weight_decay(optimizer, model)
    assert len(excluded) == 8
    before = states(model)
    zeros = [tf.zeros_like(tf.convert_to_tensor(v)) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    kept = {id(w) for w in excluded}
    for was, weight in zip(before, model.weights, strict=True):
        now = np.asarray(tf.convert_to_tensor(weight))
        if id(weight) in kept:
            np.testing.assert_array_equal(was, now)
        elif np.any(was):
            assert np.any(was != now)


def test_with_further_exclusions(x):
    """Keras forgets earlier ones, so they are said in the same call."""
    model = branching()
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    excluded = keras_norms.exclude_statistics_from_weight_decay(optimizer, model, ["gamma"])
    before = states(model)
    optimizer.build(model.trainable_variables)
    zeros = [tf.zeros_like(tf.convert_to_tensor(v)) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    kept = {id(w) for w in excluded}
    for was, weight in zip(before, model.weights, strict=True):
        is_kept = id(weight) in kept or "gamma" in weight.name
        same = np.array_equal(was, np.asarray(tf.convert_to_tensor(weight)))
        assert same == (is_kept or not np.any(was))


def test_rejects_models_without_statistics():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="plain")
    with pytest.raises(ValueError, match="must have a BatchlessNormalization that is built"):
        keras_norms.exclude_statistics_from_weight_decay(keras.optimizers.AdamW(), model)
    with pytest.raises(ValueError, match="must be a Keras optimizer .* Received: object"):
        keras_norms.exclude_statistics_from_weight_decay(object(), branching())


def test_warns_after_the_optimizer_is_built(x):
    """A traced step does not change; Keras 2 refuses, Keras 3 does not."""
    model = branching()
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    if IS_KERAS_3:
        with pytest.warns(UserWarning, match="Call `model.compile` with it again"):
            keras_norms.exclude_statistics_from_weight_decay(optimizer, model)
    else:
        with pytest.raises(ValueError, match="before the optimizer is built"):
            keras_norms.exclude_statistics_from_weight_decay(optimizer, model)


@pytest.mark.parametrize("model", [None, 3, "model"])
def test_rejects_other_objects_than_models(model):
    with pytest.raises(ValueError, match="from_weight_decay: `model` must be a Keras model"):
        keras_norms.exclude_statistics_from_weight_decay(keras.optimizers.AdamW(), model)
