"""`SecondMomentMonitor`: what it records, when it warns, what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras


def model_with(**options):
    """Statistics stay where they are: the loss that moves them has no weight."""
    norm = keras_norms.BatchlessNormalization(name="norm", nll_weight=0.0, **options)
    model = keras.Sequential([keras.Input((1,)), norm])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def test_history_and_logs():
    model = model_with(monitor=0.5)
    moments = keras_norms.callbacks.SecondMomentMonitor(band=(0.0, 100.0), every=2)
    x = np.array([[2.0], [-2.0]] * 3)
    history = model.fit(x, x, batch_size=2, epochs=2, shuffle=False, callbacks=[moments], verbose=0)
    expected, value = [], 1.0
    for _ in range(6):
        value = 0.5 * value + 0.5 * 4.0
        expected.append(value)
    assert moments.steps == [2, 3, 4, 6]
    np.testing.assert_allclose(moments.history["norm"], np.take(expected, [1, 2, 3, 5]))
    np.testing.assert_allclose(history.history["norm_second_moment"], np.take(expected, [2, 5]))


@pytest.mark.parametrize(
    "scale, says", [(10.0, "E\\[z\\^2\\] is 100 after batch 1"), (0.1, "0.01")]
)
def test_warns_once_when_a_layer_leaves_the_band(scale, says):
    model = model_with(monitor=0.0)
    moments = keras_norms.callbacks.SecondMomentMonitor(every=1)
    x = scale * np.array([[1.0], [-1.0]] * 4)
    with pytest.warns(UserWarning, match=f"'norm': .*{says}.*outside") as caught:
        model.fit(x, x, batch_size=2, callbacks=[moments], verbose=0)
    assert len([w for w in caught if "second" in str(w.message) or "E[z" in str(w.message)]) == 1


def test_warns_again_after_returning_to_the_band():
    model = model_with(monitor=0.0)
    moments = keras_norms.callbacks.SecondMomentMonitor(every=1)
    x = np.array([9.0, 9.0, 1.0, 1.0, 9.0, 9.0])[:, None]
    with pytest.warns(UserWarning, match="outside") as caught:
        model.fit(x, x, batch_size=2, shuffle=False, callbacks=[moments], verbose=0)
    assert sum("E[z" in str(w.message) for w in caught) == 2


def test_equal_names_in_nested_models_have_histories_of_their_own():
    inner = keras.Sequential(
        [keras.Input((1,)), keras_norms.BatchlessNormalization(name="norm", monitor=0.0)]
    )
    outer = keras_norms.BatchlessNormalization(name="norm", monitor=0.0)
    model = keras.Sequential([keras.Input((1,)), inner, keras.layers.Rescaling(3.0), outer])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    moments = keras_norms.callbacks.SecondMomentMonitor(band=(0, np.inf), every=np.int64(1))
    x = np.array([[1.0], [-1.0]])
    model.fit(x, x, batch_size=2, callbacks=[moments], verbose=0)
    assert sorted(moments.history) == ["norm", "norm_1"]
    assert sorted(v for values in moments.history.values() for v in values) == [1.0, 9.0]


def test_counts_batches_with_steps_per_execution():
    model = model_with(monitor=0.0)
    model.compile(keras.optimizers.SGD(0.0), "mse", steps_per_execution=2)
    moments = keras_norms.callbacks.SecondMomentMonitor(band=(0, np.inf), every=1)
    x = np.ones((8, 1))
    model.fit(x, x, batch_size=2, epochs=2, callbacks=[moments], verbose=0)
    assert moments.steps == [2, 4, 6, 8]


def test_another_model_starts_a_new_history():
    moments = keras_norms.callbacks.SecondMomentMonitor(every=1)
    x = np.array([[1.0], [-1.0]])
    for epochs in (2, 1):
        model_with(monitor=0.0).fit(
            x, x, batch_size=2, epochs=epochs, callbacks=[moments], verbose=0
        )
    assert moments.steps == [1] and moments.history == {"norm": [1.0]}


def test_the_monitor_recovers_from_nan():
    layer = keras_norms.BatchlessNormalization(monitor=0.5)
    layer.build((None, 1))
    for value in (np.nan, 2.0):
        layer(np.array([[value]], np.float32), training=True)
    np.testing.assert_allclose(tf.convert_to_tensor(layer.second_moment), 4.0)


def test_nan_is_outside_the_band():
    model = model_with(monitor=0.5)
    x = np.array([[np.nan], [1.0]])
    with pytest.warns(UserWarning, match="E\\[z\\^2\\] is nan"):
        model.fit(
            x, x, batch_size=2, callbacks=[keras_norms.callbacks.SecondMomentMonitor()], verbose=0
        )


def test_on_replicas():
    from tests import strategies

    with strategies.mirrored(2).scope():
        model = model_with(monitor=0.0)
    moments = keras_norms.callbacks.SecondMomentMonitor(band=(0.0, 100.0), every=1)
    x = np.array([[1.0], [1.0], [3.0], [3.0]], np.float32)
    data = tf.data.Dataset.from_tensors((x, x)).unbatch().batch(4)
    model.fit(data, shuffle=False, callbacks=[moments], verbose=0)
    assert moments.history == {"norm": [5.0]}  # The mean of what the replicas saw.


def test_rejects_a_model_without_a_monitor():
    model = model_with()
    with pytest.raises(ValueError, match="must have a BatchlessNormalization with a `monitor`"):
        model.fit(
            np.ones((2, 1)),
            np.ones((2, 1)),
            callbacks=[keras_norms.callbacks.SecondMomentMonitor()],
            verbose=0,
        )


@pytest.mark.parametrize(
    "band", [(4.0, 0.25), (1.0,), "ab", (True, 2), (-1.0, 2.0), (float("nan"), 1.0), 3]
)
def test_rejects_invalid_bands(band):
    with pytest.raises(ValueError, match="SecondMomentMonitor: `band` must be two numbers"):
        keras_norms.callbacks.SecondMomentMonitor(band=band)


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_rejects_invalid_intervals(every):
    with pytest.raises(ValueError, match="`every` must be a positive int"):
        keras_norms.callbacks.SecondMomentMonitor(every=every)
