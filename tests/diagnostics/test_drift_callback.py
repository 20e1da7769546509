"""`callbacks.StatisticsDrift` in `fit` and `evaluate`."""

import numpy as np
import pytest

import keras_norms
from keras_norms.keras_api import keras
from tests.diagnostics.cases import compiled, images, other_model, reference_of


def test_logs_and_warns_once(model):
    live, targets = images(200, 1), np.zeros((200, 2), np.float32)
    reference = reference_of(model)
    drift = keras_norms.callbacks.StatisticsDrift(reference, live + 3.0, batch_size=100)
    with pytest.warns(UserWarning, match="after epoch 1 .* have a psi above 0.25. The worst: chan"):
        history = compiled(model).fit(live, targets, epochs=2, verbose=0, callbacks=[drift]).history
    assert history["drifted_channels"] == [d.share for d in drift.history]
    np.testing.assert_allclose(history["statistics_drift"], [d.average for d in drift.history])
    assert len(drift.history) == 2 and drift.history[0].share > 0.5


def test_in_evaluate_and_with_validation_data(model, tmp_path):
    live, targets = images(200, 1), np.zeros((200, 2), np.float32)
    path = tmp_path / "reference.json"
    reference_of(model).save(path)
    drift = keras_norms.callbacks.StatisticsDrift(path, live)
    logs = compiled(model).evaluate(live, targets, verbose=0, callbacks=[drift], return_dict=True)
    assert len(drift.history) == 1 and "loss" in logs
    model.fit(live, targets, validation_data=(live, targets), verbose=0, callbacks=[drift])
    assert len(drift.history) == 2


def test_after_an_interrupted_fit(model):
    live, targets = images(40, 1), np.zeros((40, 2), np.float32)
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), live)

    class Interrupts(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiled(model).fit(live, targets, verbose=0, callbacks=[Interrupts()])
    model.evaluate(live, targets, verbose=0, callbacks=[drift])
    assert len(drift.history) == 1


def test_rejects(model):
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


def test_checks_the_model_before_training(model):
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), images(4, 1))
    other = compiled(other_model(keras_norms.BatchNormalization(name="ours")))
    before = other.get_weights()
    with pytest.raises(ValueError, match="must be of the model"):
        other.fit(images(4, 1), images(4, 1), verbose=0, callbacks=[drift])
    for one, after in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, after)


def test_checks_the_data_before_training(model):
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), images(64, 5)[..., :2])
    before = model.get_weights()
    with pytest.raises(ValueError):
        compiled(model).fit(
            images(64, 5), np.zeros((64, 2), np.float32), verbose=0, callbacks=[drift]
        )
    for one, after in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, after)


def test_given_twice_it_compares_once(model):
    live = images(64, 5)
    drift = keras_norms.callbacks.StatisticsDrift(reference_of(model), live)
    targets = np.zeros((64, 2), np.float32)
    compiled(model).fit(live, targets, epochs=2, verbose=0, callbacks=[drift, drift])
    model.evaluate(live, targets, verbose=0, callbacks=[drift, drift])
    assert len(drift.history) == 3
