"""`StatisticsReference`, `Drift` and `callbacks.StatisticsDrift`: what they find and refuse."""

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.diagnostics import StatisticsReference
from keras_norms.diagnostics.drift import divergence
from keras_norms.diagnostics.drift_report import short_labels
from keras_norms.keras_api import keras
from tests import oracles

CHANNELS = 24


@pytest.fixture(scope="module")
def model():
    """A network whose moving statistics fit the data."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(CHANNELS, 3, use_bias=False),
            keras_norms.BatchNormalization(name="ours", momentum=0.5),
            layers.ReLU(),
            layers.Conv2D(CHANNELS, 3, use_bias=False),
            layers.BatchNormalization(name="stock", momentum=0.5),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    for seed in range(20):
        model(images(64, seed), training=True)
    return model


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
def test_worse_data_is_farther(model, measure):
    reference, clean = reference_of(model), images(300, 3)
    noise = np.random.default_rng(5).normal(size=clean.shape).astype(np.float32)
    found = [
        compared(reference, model, clean + level * noise, measure=measure).average
        for level in (0.0, 0.3, 0.6, 1.0, 2.0, 4.0)
    ]
    assert found == sorted(found) and found[0] < 0.1 * found[-1]


def test_a_poisoned_batch_stands_out_in_the_trajectory(model):
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


def test_padding_does_not_count(rng):
    x = rng.normal(1.0, 2.0, (40, 5, 2)).astype(np.float32)
    lengths = rng.integers(1, 6, (40, 1))
    x[np.arange(5) >= lengths] = 0.0
    stack = [keras.Input((None, 2)), keras.layers.Masking(), keras_norms.BatchNormalization()]
    model = keras.Sequential(stack)
    longer = np.concatenate([x, np.zeros((40, 7, 2), np.float32)], 1)
    drift = compared(reference_of(model, x), model, longer)
    assert drift.average < 1e-10


def test_a_reference_survives_saving(model, tmp_path):
    reference = reference_of(model)
    reference.save(tmp_path / "model.statistics.json")
    loaded = StatisticsReference.load(tmp_path / "model.statistics.json")
    live = images(100, 8)
    one, other = (compared(r, model, live) for r in (reference, loaded))
    assert one.ranked() == other.ranked()
    assert [path.name for path in tmp_path.iterdir()] == ["model.statistics.json"]
    beside = StatisticsReference.beside(tmp_path / "model.keras")
    assert beside == tmp_path / "model.statistics.json"
    assert StatisticsReference.beside("a/saved.v2").name == "saved.v2.statistics.json"


def test_saving_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch):
    path = tmp_path / "model.statistics.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        reference_of(model).save(path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "layers": {"a": {"mean": [1]}}}',
        '{"format": 1, "layers": {"a": {"mean": [1, 2], "variance": [1]}}, "batches": 1}',
        '{"format": 1, "layers": {"a": {"mean": [NaN], "variance": [1]}}, "batches": 1}',
        '{"format": 1, "layers": {"a": {"mean": [0], "variance": [-1]}}, "batches": 1}',
        '{"format": 1, "layers": {}, "weights": "", "batches": 1e999}',
        "[" * 100_000,
    ],
)
def test_files_that_are_no_reference(tmp_path, content):
    path = tmp_path / "reference.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="must be a file that `save` wrote"):
        StatisticsReference.load(path)


def other_model(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


@pytest.mark.parametrize(
    "layers, message",
    [
        ([keras.layers.Flatten()], "must have a layer with batch statistics"),
        (
            [keras_norms.BatchNormalization(name="ours")],
            "'ours' of 24 channels, .* with 3 channels",
        ),
        ([keras_norms.BatchNormalization(name="norm")], "'ours' of 24 .* with no such layer"),
    ],
)
def test_a_reference_of_another_model(model, layers, message):
    with pytest.raises(ValueError, match=f"^StatisticsReference: .*{message}"):
        compared(reference_of(model), other_model(*layers), images(4, 1))


def test_a_reference_of_other_weights(model):
    reference, weights = reference_of(model), model.get_weights()
    try:
        model.set_weights([w + 0.01 for w in weights])
        with pytest.raises(ValueError, match="with the same weights. Received: other weights"):
            compared(reference, model, images(4, 1))
        assert compared(reference, model, images(40, 1), same_weights=False).average > 0
    finally:
        model.set_weights(weights)


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


def test_a_reference_needs_finite_data(model):
    data = images(40, 1)
    data[7, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must lead to finite statistics. Received: mean nan"):
        reference_of(model, data)


# The callback.


def compiled(model):
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def test_the_callback_logs_and_warns_once(model):
    live, targets = images(200, 1), np.zeros((200, 2), np.float32)
    reference = reference_of(model)
    drift = keras_norms.callbacks.StatisticsDrift(reference, live + 3.0, batch_size=100)
    with pytest.warns(UserWarning, match="after epoch 1 .* have a psi above 0.25. The worst: chan"):
        history = compiled(model).fit(live, targets, epochs=2, verbose=0, callbacks=[drift]).history
    assert history["drifted_channels"] == [d.share for d in drift.history]
    np.testing.assert_allclose(history["statistics_drift"], [d.average for d in drift.history])
    assert len(drift.history) == 2 and drift.history[0].share > 0.5


def test_the_callback_in_evaluate_and_beside_validation(model, tmp_path):
    live, targets = images(200, 1), np.zeros((200, 2), np.float32)
    path = tmp_path / "reference.json"
    reference_of(model).save(path)
    drift = keras_norms.callbacks.StatisticsDrift(path, live)
    logs = compiled(model).evaluate(live, targets, verbose=0, callbacks=[drift], return_dict=True)
    assert len(drift.history) == 1 and "loss" in logs
    model.fit(live, targets, validation_data=(live, targets), verbose=0, callbacks=[drift])
    assert len(drift.history) == 2


def test_the_callback_after_a_fit_that_was_interrupted(model):
    live, targets = images(40, 1), np.zeros((40, 2), np.float32)
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), live)

    class Interrupts(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiled(model).fit(live, targets, verbose=0, callbacks=[Interrupts()])
    model.evaluate(live, targets, verbose=0, callbacks=[drift])
    assert len(drift.history) == 1


def test_a_layer_that_is_told_to_train_is_as_before():
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


def test_a_layer_inside_a_condition_is_told():
    class Conditional(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization(name="norm")

        def build(self, shape):
            self.norm.build(shape)
            self.built = True

        def call(self, x):
            return tf.cond(tf.reduce_sum(x) > 1e9, lambda: self.norm(x), lambda: x)

    model = keras.Sequential([keras.Input((3,)), Conditional()])
    with pytest.raises(ValueError, match="'norm' runs inside a tf.cond, a loop or a tf.function"):
        reference_of(model, np.ones((4, 3), np.float32))


def test_files_keep_their_mode_and_links(model, tmp_path):
    path, link = tmp_path / "kept.json", tmp_path / "link.json"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)
    reference_of(model).save(link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    StatisticsReference.load(path)
    for target, message in ((tmp_path, "is a folder"), (tmp_path / "no" / "r.json", "no folder")):
        with pytest.raises(OSError, match=message):
            reference_of(model).save(target)


def test_the_callback_rejects(model):
    for reference in (None, 3):
        with pytest.raises(ValueError, match="`reference` must be a StatisticsReference or a path"):
            keras_norms.callbacks.StatisticsDrift(reference, images(4, 1))
    with pytest.raises(ValueError, match="^StatisticsDrift: `tolerated` must be in"):
        keras_norms.callbacks.StatisticsDrift(reference_of(model), images(4, 1), tolerated=2)
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), images(4, 1))
    other = compiled(other_model(keras_norms.BatchNormalization(name="ours")))
    with pytest.raises(ValueError, match="must be of the model"):
        other.evaluate(images(4, 1), images(4, 1), verbose=0, callbacks=[drift])
    with pytest.raises(FileNotFoundError):
        keras_norms.callbacks.StatisticsDrift("nothing.json", images(4, 1))


def test_the_callback_checks_before_anything_is_trained(model):
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), images(4, 1))
    other = compiled(other_model(keras_norms.BatchNormalization(name="ours")))
    before = other.get_weights()
    with pytest.raises(ValueError, match="must be of the model"):
        other.fit(images(4, 1), images(4, 1), verbose=0, callbacks=[drift])
    for one, after in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, after)


def test_the_callback_tries_the_data_before_anything_is_trained(model):
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), images(64, 5)[..., :2])
    before = model.get_weights()
    with pytest.raises(ValueError):
        compiled(model).fit(
            images(64, 5), np.zeros((64, 2), np.float32), verbose=0, callbacks=[drift]
        )
    for one, after in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, after)


def test_the_callback_given_twice_compares_once(model):
    live = images(64, 5)
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), live)
    targets = np.zeros((64, 2), np.float32)
    compiled(model).fit(live, targets, epochs=2, verbose=0, callbacks=[drift, drift])
    model.evaluate(live, targets, verbose=0, callbacks=[drift, drift])
    assert len(drift.history) == 3


def test_constant_channels_without_epsilon_are_equal():
    layer = keras.layers.BatchNormalization(epsilon=0.0, name="norm")
    model = keras.Sequential([keras.Input((2,)), layer])
    x = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    x[:, 0] = 3.0
    reference = reference_of(model, x)
    np.testing.assert_array_equal(compared(reference, model, x).by_channel["norm"], 0.0)
    x[:, 0] = 4.0
    assert compared(reference, model, x).by_channel["norm"][0] == np.inf


def test_what_a_drift_says_of_itself(model):
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
def test_labels_of_a_picture_tell_layers_apart(names, labels):
    assert short_labels(names) == dict(zip(names, labels, strict=True))


def test_the_model_is_as_before(model):
    weights = model.get_weights()
    compared(reference_of(model), model, images(40, 1))
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any("call" in vars(layer) for layer in model.layers)
