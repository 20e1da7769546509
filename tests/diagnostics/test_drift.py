"""`Drift`: what it finds in live data, channel by channel and batch by batch."""

import json

import numpy as np
import pytest

import keras_norms
from keras_norms.diagnostics.drift import divergence
from keras_norms.diagnostics.drift_report import short_labels
from keras_norms.keras_api import keras
from tests import oracles
from tests.diagnostics.cases import CHANNELS, compared, images, other_model, reference_of


def kl(m1, v1, m0, v0):
    """By quadrature, not by the formula."""
    x = np.linspace(m1 - 12 * np.sqrt(v1), m1 + 12 * np.sqrt(v1), 40001)
    log1, log0 = (
        -0.5 * ((x - m) ** 2 / v + np.log(2 * np.pi * v)) for m, v in ((m1, v1), (m0, v0))
    )
    return np.sum(np.exp(log1) * (log1 - log0)) * (x[1] - x[0])


@pytest.mark.parametrize("m1, v1, m0, v0", [(1.0, 2.0, 0.0, 1.0), (0.3, 0.5, 0.2, 4.0)])
def test_the_measures_are_divergences_of_normal_distributions(m1, v1, m0, v0):
    forward, backward = kl(m1, v1, m0, v0), kl(m0, v0, m1, v1)
    np.testing.assert_allclose(divergence("kl", m1, v1, m0, v0), forward, rtol=1e-6)
    np.testing.assert_allclose(divergence("psi", m1, v1, m0, v0), forward + backward, rtol=1e-6)
    assert divergence("psi", m0, v0, m0, v0) == divergence("kl", m0, v0, m0, v0) == 0.0
    assert divergence("psi", np.nan, v1, m0, v0) == np.inf


def test_the_statistics_are_those_of_the_inputs_in_inference(model):
    data = images(70, 1)
    reference = reference_of(model, data, batch_size=32)
    assert list(reference.layers) == ["ours", "stock"]
    received = {"ours": model.layers[0](data), "stock": model.layers[3](head(model)(data))}
    for name, inputs in received.items():
        _, mean, variance = (np.ravel(v) for v in oracles.moments(inputs))
        np.testing.assert_allclose(reference.layers[name]["mean"], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(reference.layers[name]["variance"], variance, rtol=1e-5)


def head(model):
    return lambda x: model.layers[2](model.layers[1](model.layers[0](x), training=False))


def test_two_halves_of_clean_data_agree(model):
    drift = compared(reference_of(model, images(500, 1)), model, images(500, 2))
    assert drift.share <= 0.01 and drift.average < 0.05
    assert drift.channels == 2 * CHANNELS


def test_layers_that_normalize_by_ranges_are_compared():
    """By the statistics of what they receive, as all others."""
    by_range = keras_norms.RangeBatchNormalization(name="range")
    light = keras_norms.LightNormalization(name="light", block_size=3)
    model, data = other_model(by_range, light), images(70, 1)
    reference = reference_of(model, data)
    _, mean, variance = (np.ravel(v) for v in oracles.moments(data))
    np.testing.assert_allclose(reference.layers["range"]["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reference.layers["range"]["variance"], variance, rtol=1e-5)
    shifted = compared(reference, model, data + np.float32([0, 0, 9]))
    assert {c[:2] for c in shifted.drifted} == {("range", 2), ("light", 2)}


def test_a_channel_that_is_scaled_is_ranked_first(model):
    reference = reference_of(model)
    kernel = model.layers[3].get_weights()[0]
    scaled = kernel.copy()
    scaled[..., 7] *= 10.0
    try:
        model.layers[3].set_weights([scaled])
        drift = compared(reference, model, images(500, 2), same_weights=False)
    finally:
        model.layers[3].set_weights([kernel])
    worst = drift.ranked(2)
    assert (worst[0].layer, worst[0].channel) == ("stock", 7)
    assert [c[:2] for c in drift.drifted] == [("stock", 7)]
    np.testing.assert_allclose(worst[0].stddev / worst[0].reference_stddev, 10.0, rtol=0.2)
    assert worst[1].value < drift.threshold < worst[0].value


@pytest.mark.parametrize("measure", ["psi", "kl"])
def test_worse_data_has_a_larger_drift(model, measure):
    reference, clean = reference_of(model), images(300, 3)
    noise = np.random.default_rng(5).normal(size=clean.shape).astype(np.float32)
    found = [
        compared(reference, model, clean + level * noise, measure=measure).average
        for level in (0.0, 0.3, 0.6, 1.0, 2.0, 4.0)
    ]
    assert found == sorted(found) and found[0] < 0.1 * found[-1]


def test_a_poisoned_batch_stands_out_among_batches(model):
    data = images(320, 3)
    data[96:128] *= 30.0
    drift = compared(reference_of(model), model, data, batch_size=32)
    for values in drift.by_batch.values():
        assert len(values) == 10
        assert np.argmax(values) == 3 and values[3] > 10 * np.max(np.delete(values, 3))
    data[96:128] = np.nan
    drift = compared(reference_of(model), model, data, batch_size=32)
    assert np.isinf(drift.average) and drift.share == 1.0
    assert all(np.isinf(values[3]) for values in drift.by_batch.values())
    assert drift.to_json()["average"] is None
    json.dumps(drift.to_json(), allow_nan=False)


def test_padding_is_ignored(rng):
    x = rng.normal(1.0, 2.0, (40, 5, 2)).astype(np.float32)
    lengths = rng.integers(1, 6, (40, 1))
    x[np.arange(5) >= lengths] = 0.0
    stack = [keras.Input((None, 2)), keras.layers.Masking(), keras_norms.BatchNormalization()]
    model = keras.Sequential(stack)
    longer = np.concatenate([x, np.zeros((40, 7, 2), np.float32)], 1)
    drift = compared(reference_of(model, x), model, longer)
    assert drift.average < 1e-10


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(measure="js"), "`measure` must be one of 'psi', 'kl'. Received: 'js'"),
        (dict(threshold=-1), "`threshold` must be a finite number, at least 0. Received: -1"),
        (dict(threshold=float("nan")), "`threshold` must be a finite number"),
        (dict(batch_size=0), "`batch_size` must be a positive int"),
        (dict(data=[[1.0, 2.0]]), "must be an array, or a list or dict of arrays. Received: float"),
        (dict(data="live.npz"), "must be arrays or an iterable of batches. Received: str"),
        (dict(data=np.zeros((0, 8, 8, 3))), "must hold at least one instance"),
        (dict(data=np.zeros((4, 8, 8, 2))), "8, 8, 2"),
    ],
)
def test_rejects(model, options, message):
    options = {"data": images(4, 1), **options}
    with pytest.raises(ValueError, match=message):
        compared(reference_of(model), model, options.pop("data"), **options)


def test_a_layer_called_with_training_is_unchanged():
    """Also where a model's own seeds and losses are concerned."""
    inputs = keras.Input((3,))
    x = keras.layers.Dropout(0.5, seed=1)(inputs, training=True)
    x = keras_norms.RegularizedBatchNormalization(name="norm")(x, training=True)
    model = keras.Model(inputs, x)
    x = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    variables, losses = model.non_trainable_variables, len(model.losses)
    before = [np.array(v) for v in variables]
    reference = reference_of(model, x)
    compared(reference, model, x)
    keras_norms.diagnostics.training_inference_discrepancy(model, x, verbose=0)
    for one, other in zip(before, variables, strict=True):
        np.testing.assert_array_equal(one, np.array(other))
    assert len(model.losses) == losses  # None of the graphs that were traced.


def test_constant_channels_without_epsilon_are_equal():
    layer = keras.layers.BatchNormalization(epsilon=0.0, name="norm")
    model = keras.Sequential([keras.Input((2,)), layer])
    x = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    x[:, 0] = 3.0
    reference = reference_of(model, x)
    np.testing.assert_array_equal(compared(reference, model, x).by_channel["norm"], 0.0)
    x[:, 0] = 4.0
    assert compared(reference, model, x).by_channel["norm"][0] == np.inf


def test_worst_batch_representation_and_ranking(model):
    poisoned = images(96, 7)
    poisoned[32:64] *= 9.0
    drift = compared(reference_of(model), model, poisoned)
    index, value = drift.worst_batch
    assert index == 1 and value == max(values[1] for values in drift.by_batch.values())
    assert repr(drift).startswith("<Drift psi: ") and "above 0.25" in repr(drift)
    assert len(drift.ranked(0)) == 0 and len(drift.ranked(3)) == 3
    for count in (-1, "all", 1.5):
        with pytest.raises(ValueError, match="^Drift.ranked: `count` must be None or an int"):
            drift.ranked(count)


@pytest.mark.parametrize(
    "names, labels",
    [
        (["a", "b$"], ["a", r"b\$"]),
        ([f"encoder_of_the_model_{i}_normalization" for i in "78"], ["…7…", "…8…"]),
        (
            [f"encoder_of_the_model_{i}_normalization" for i in (1, 10, 11)],
            ["…1…", "…10…", "…11…"],
        ),
        (["a" * 40, "b" * 40], ["a" * 13 + "…" + "a" * 14, "b" * 13 + "…" + "b" * 14]),
        (
            ["a" * 40 + "1" + "b" * 40, "a" * 40 + "2" + "b" * 40],
            [f"{i}: {'a' * 13}…{'b' * 14}" for i in (0, 1)],
        ),
        (["_a", "b"], [" _a", "b"]),
    ],
)
def test_labels_of_layers_are_distinct(names, labels):
    assert short_labels(names) == dict(zip(names, labels, strict=True))


def test_comparing_leaves_the_model_unchanged(model):
    weights = model.get_weights()
    compared(reference_of(model), model, images(40, 1))
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any("call" in vars(layer) for layer in model.layers)
