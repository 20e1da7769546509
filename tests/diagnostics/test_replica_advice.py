"""`advise`: noise against its definition, the rule, and what is left out."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.diagnostics import advise
from keras_norms.keras_api import keras


def model_with(*layers):
    return keras.Sequential(
        [keras.Input((4, 2)), *layers, keras_norms.BatchNormalization(name="n")]
    )


def without():
    return keras.Sequential([keras.Input((4, 2)), keras.layers.Dense(2)])


def noise(x, batch):
    """Root mean square over batches and channels of the mean's error in standard deviations."""
    x = x.astype(np.float64)
    means = x.reshape(-1, batch * x.shape[1], x.shape[2]).mean(1)
    flat = x.reshape(-1, x.shape[2])
    return np.sqrt(np.mean((means - flat.mean(0)) ** 2 / flat.var(0)))


def test_noise_is_that_of_the_definition(rng):
    x = rng.normal(3.0, 2.0, (64, 4, 2)).astype(np.float32)
    advice = advise(model_with(), x, replicas=2, batch_size=8, verbose=0)
    (row,) = advice.rows
    np.testing.assert_allclose(row.noise, noise(x, 8), rtol=1e-5)
    np.testing.assert_allclose(row.group_noise, noise(x, 16), rtol=1e-5)
    assert row.seconds >= 0.0 and "ms a step in all" in advice.table()


@pytest.mark.parametrize(
    "limit, expected",
    [(1.0, "BatchNormalization"), (0.15, "SyncBatchNormalization"), (0.01, "BatchRenormalization")],
)
def test_the_rule(rng, limit, expected):
    x = rng.normal(size=(64, 4, 2)).astype(np.float32)
    advice = advise(model_with(), x, replicas=2, batch_size=8, limit=limit, verbose=0)
    low, high = sorted((advice.rows[0].group_noise, advice.rows[0].noise))
    assert low < 0.15 < high
    assert advice.advice == advice.to_json()["layers"][0]["advice"] == expected


def test_a_batch_of_one_value_has_no_spread(rng):
    model = keras.Sequential([keras.Input((2,)), keras_norms.BatchNormalization()])
    x = rng.normal(size=(16, 2)).astype(np.float32)
    assert advise(model, x, replicas=2, batch_size=1, verbose=0).advice == "BatchlessNormalization"


def test_smaller_and_masked_batches_are_left_out(rng):
    x = rng.normal(3.0, 2.0, (64, 4, 2)).astype(np.float32)
    whole = advise(model_with(), x, replicas=1, batch_size=8, verbose=0)
    more = np.concatenate([x, 100.0 + x[:1]])
    assert advise(model_with(), more, replicas=1, batch_size=8, verbose=0).rows == whole.rows
    padded = np.concatenate([np.zeros_like(x[:8]), x])
    masking = keras.layers.Masking()
    masked = advise(model_with(masking), padded, replicas=1, batch_size=8, verbose=0)
    np.testing.assert_allclose(masked.rows[0].noise, whole.rows[0].noise, rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(replicas=0), "`replicas` must be a positive int. Received: replicas=0"),
        (dict(batch_size=0), "`batch_size` must be a positive int"),
        (dict(limit=0.0), "`limit` must be a number above 0"),
        (dict(replicas=8), "at least two batches of all replicas together"),
        (dict(data=np.full((64, 4, 2), np.nan, np.float32)), "layer 'n' must be finite"),
        (dict(data=tf.data.Dataset.from_tensors(np.ones((9, 4, 2)))), "must have `batch_size`"),
        (dict(model=without()), "layer with batch statistics"),
    ],
)
def test_bad_input(rng, change, message):
    x = rng.normal(size=(64, 4, 2)).astype(np.float32)
    options = dict(model=model_with(), data=x, replicas=2, batch_size=8, verbose=0)
    with pytest.raises(ValueError, match=message):
        advise(**{**options, **change})
