"""`callbacks.TrainingInferenceDiscrepancy`: what it reads off a training, and where it shows it."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from tests import oracles, strategies
from tests.diagnostics.test_discrepancy import KINDS, oracle

FEATURES = 3


def model_of(*layers, **options):
    model = keras.Sequential([keras.Input((FEATURES,)), *layers])
    model.compile(keras.optimizers.SGD(0.0), "mse", **options)
    return model


def fit(model, x, tid, **options):
    options = dict(batch_size=4, shuffle=False, verbose=0) | options
    return model.fit(x, np.zeros_like(x), callbacks=[tid], **options)


def expected_readings(x, momentum, epsilon=None, epochs=1):
    """Both ratios for every batch of 4, the moving statistics being those before it."""
    moving, readings = [np.zeros(FEATURES), np.ones(FEATURES)], []
    for _ in range(epochs):
        for batch in np.split(x, len(x) // 4):
            readings.append(oracle([batch], *moving)[:2])
            batch = [np.ravel(v) for v in oracles.moments(batch)[1:]]
            if epsilon is None:
                moving = [
                    oracles.moving(a, b, momentum) for a, b in zip(moving, batch, strict=True)
                ]
            else:  # The average of standard deviations.
                stddevs = [np.sqrt(v + epsilon) for v in (moving[1], batch[1])]
                moving[0] = oracles.moving(moving[0], batch[0], momentum)
                moving[1] = oracles.moving(*stddevs, momentum) ** 2 - epsilon
    return np.transpose(readings)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"range"}))  # It keeps no variances.
def test_readings_are_those_of_the_batches(rng, kind):
    x = rng.normal(1.0, 2.0, (24, FEATURES)).astype(np.float32)
    layer = KINDS[kind](momentum=0.9, name="norm")
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    history = fit(model_of(layer), x, tid, epochs=2)
    epsilon = layer.epsilon if kind == "renorm" else None
    expected = expected_readings(x, 0.9, epsilon, epochs=2)
    assert tid.steps == list(range(1, 13))
    for kept, values, total in zip(("mean", "variance"), expected, expected.mean(1), strict=True):
        np.testing.assert_allclose(tid.history["norm"][kept], values, rtol=1e-4, atol=1e-5)
        logged = history.history[f"tid_{kept}"]
        np.testing.assert_allclose(np.mean(logged), total, rtol=1e-4, atol=1e-5)


def test_every_tenth_batch_by_default_over_epochs(rng):
    x = rng.normal(size=(4 * 7, FEATURES)).astype(np.float32)
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy()
    logs = fit(model_of(keras_norms.BatchNormalization()), x, tid, epochs=3).history
    assert tid.steps == [10, 20]
    assert len(logs["tid_mean"]) == len(logs["tid_variance"]) == 2  # None in the first epoch.


def test_training_is_unchanged(rng):
    x = rng.normal(size=(24, FEATURES)).astype(np.float32)
    weights = []
    for callbacks in ([], [keras_norms.callbacks.TrainingInferenceDiscrepancy(every=2)]):
        keras.utils.set_random_seed(1)
        model = model_of(keras.layers.Dense(3), keras_norms.BatchNormalization())
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, x, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_progress_bar_shows_it(rng, capsys):
    x = rng.normal(size=(8, FEATURES)).astype(np.float32)
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    fit(model_of(keras_norms.BatchNormalization()), x, tid, verbose=1)
    first = capsys.readouterr().out.split("2/2")[0]
    assert "tid_mean" in first and "tid_variance" in first


def events(folder):
    for path in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                yield event.step, value.tag, tf.make_ndarray(value.tensor)


def test_tensorboard_has_scalars_and_histograms(rng, tmp_path):
    x = rng.normal(size=(16, FEATURES)).astype(np.float32)
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=2, log_dir=tmp_path)
    names = ("one", "two")
    fit(model_of(*(keras_norms.BatchNormalization(name=n) for n in names)), x, tid, epochs=2)
    written = list(events(tmp_path))
    for name in names:
        for kind in ("mean", "variance"):
            scalars = [(s, float(v)) for s, tag, v in written if tag == f"tid_{kind}/{name}"]
            assert [s for s, _ in scalars] == tid.steps == [2, 4, 6, 8]
            np.testing.assert_allclose([v for _, v in scalars], tid.history[name][kind], rtol=1e-6)
            tag = f"tid_{kind}_by_channel/{name}"
            histograms = [(s, v) for s, found, v in written if found == tag]
            assert [s for s, _ in histograms] == [4, 8]
            assert all(v[:, 2].sum() == FEATURES for _, v in histograms)


def test_log_dir_needs_tensorboard(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="`log_dir` needs TensorBoard: pip install tensorboard"):
        keras_norms.callbacks.TrainingInferenceDiscrepancy(log_dir=tmp_path)


def test_replicas_give_their_average(rng):
    x = rng.normal(1.0, 2.0, (16, FEATURES)).astype(np.float32)
    found = []
    for strategy in (tf.distribute.get_strategy(), strategies.mirrored(2)):
        with strategy.scope():
            model = model_of(keras_norms.SyncBatchNormalization(name="norm", momentum=0.9))
        tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
        dataset = tf.data.Dataset.from_tensor_slices((x, x)).batch(8)
        model.fit(dataset, shuffle=False, callbacks=[tid], verbose=0)
        found.append(tid.history["norm"])
    for kind in ("mean", "variance"):
        np.testing.assert_allclose(found[1][kind], found[0][kind], rtol=1e-4)


def test_a_subclassed_model_that_is_built_by_its_first_step(rng):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization(name="norm")

        def call(self, inputs, training=None):
            return self.norm(inputs, training=training)

    x = rng.normal(size=(16, FEATURES)).astype(np.float32)
    model = Model()
    model.compile("sgd", "mse")
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=2)
    fit(model, x, tid)
    assert tid.steps == [2, 4] and len(tid.history["norm"]["mean"]) == 2


def test_skips_frozen_layers_and_restarts_for_another_model(rng):
    x = rng.normal(size=(8, FEATURES)).astype(np.float32)
    frozen, still = (keras_norms.BatchNormalization(name=n) for n in ("frozen", "still"))
    frozen.trainable, still.momentum = False, 1.0
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    for name in ("one", "two"):
        fit(model_of(frozen, keras_norms.BatchNormalization(name=name), still), x, tid)
        assert tid.steps == [1, 2] and list(tid.history) == [name]
    fit(tid.model, x, tid)
    assert tid.steps == [1, 2, 3, 4]


def test_layers_in_inference_mode_are_not_averaged(rng):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.kept = keras.layers.BatchNormalization(name="kept")
            self.moved = keras.layers.BatchNormalization(name="moved")

        def call(self, inputs, training=None):
            return self.moved(self.kept(inputs, training=False), training=training)

    x = rng.normal(size=(16, FEATURES)).astype(np.float32)
    model = Model()
    model(x[:4])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    logs = fit(model, x, tid).history
    assert np.isnan(tid.history["kept"]["mean"]).all()
    np.testing.assert_allclose(logs["tid_mean"], np.mean(tid.history["moved"]["mean"]), rtol=1e-6)


def test_converged_statistics_have_no_discrepancy(rng):
    """Where the update is lost in rounding the layer has not stopped moving."""
    x = rng.normal(size=(8, FEATURES)).astype(np.float32)
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=20)
    logs = fit(
        model_of(keras.layers.BatchNormalization(momentum=0.5)), x, tid, batch_size=8, epochs=60
    )
    assert tid.history[next(iter(tid.history))]["mean"][-1] < 1e-5
    assert np.nanmax(logs.history["tid_mean"]) < 1e-4


def test_given_twice_it_records_once(rng):
    x = rng.normal(size=(16, FEATURES)).astype(np.float32)
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    model = model_of(keras_norms.BatchNormalization())
    model.fit(x, x, batch_size=4, verbose=0, callbacks=[tid, tid])
    assert tid.steps == [1, 2, 3, 4]


def test_warns_where_training_is_too_short_to_record(rng):
    x = rng.normal(size=(8, FEATURES)).astype(np.float32)
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy()
    with pytest.warns(UserWarning, match="nothing was recorded: there were 2 batches, and `every`"):
        fit(model_of(keras_norms.BatchNormalization()), x, tid)


def test_rejects_a_log_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "logs"
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(log_dir=folder)
    with pytest.raises(ValueError, match="`log_dir` must be a folder that can be written"):
        fit(model_of(keras_norms.BatchNormalization()), np.ones((8, FEATURES), np.float32), tid)


def test_restarts_for_another_unbuilt_model(rng):
    x = rng.normal(size=(20, FEATURES)).astype(np.float32)
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    for _ in range(2):
        model = keras.Sequential([keras.layers.BatchNormalization(name="norm")])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        logs = fit(model, x, tid, epochs=2).history
        # Keras 2 builds it in the first batch, which cannot be read then.
        assert tid.steps in ([*range(1, 11)], [*range(2, 11)])
        assert len(tid.history["norm"]["mean"]) == len(tid.steps)
        assert len(logs["tid_mean"]) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(log_dir=__file__), "`log_dir` must be a folder. Received: the file"),
        (dict(every=0), "`every` must be a positive int. Received: every=0"),
        (dict(every=2.5), "`every` must be a positive int. Received: every=2.5"),
        (dict(log_dir=3), "`log_dir` must be a path or None. Received: 3"),
    ],
)
def test_rejects_arguments(options, message):
    with pytest.raises(ValueError, match=f"^TrainingInferenceDiscrepancy: {message}"):
        keras_norms.callbacks.TrainingInferenceDiscrepancy(**options)


def test_rejects_models_without_a_layer_and_several_steps_per_execution():
    x = np.ones((8, FEATURES), np.float32)
    frozen = keras_norms.BatchNormalization()
    frozen.trainable = False
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy()
    with pytest.raises(ValueError, match="must have a layer with batch statistics"):
        fit(model_of(keras.layers.Dense(1)), x, tid)
    with pytest.raises(ValueError, match="must be trained, with a momentum below 1"):
        fit(model_of(frozen), x, tid)
    model = model_of(keras_norms.BatchNormalization(), steps_per_execution=2)
    with pytest.raises(ValueError, match="`steps_per_execution=1`. Received: 2 batches at once"):
        fit(model, x, tid)
