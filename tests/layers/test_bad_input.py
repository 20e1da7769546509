"""Bad input: one sentence that names the layer, the rule and what was received."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.layers import keras_api
from tests.layers.one_device import states


def test_rejects_another_backend(monkeypatch):
    monkeypatch.setattr(keras_api, "backend_name", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"TensorFlow backend of Keras. Received: .*'jax'"):
        keras_norms.SyncBatchNormalization()


REJECTED = {
    "axis": (dict(axis=1.5), r"`axis` must be an int or a list of ints. Received: axis=1.5"),
    "axis_empty": (dict(axis=[]), r"`axis` must be an int or a list"),
    "momentum": (dict(momentum=1.2), r"`momentum` must be a number in \[0, 1\].*momentum=1.2"),
    "momentum_nan": (dict(momentum=float("nan")), r"`momentum` must be a number"),
    "epsilon": (dict(epsilon=-1e-3), r"`epsilon` must be a finite number.*epsilon=-0.001"),
    "virtual": (dict(virtual_batch_size=0), r"`virtual_batch_size` must be a positive int"),
    "virtual_bool": (dict(virtual_batch_size=True), r"`virtual_batch_size` must be a positive"),
    "group": (dict(group_size=-1, synchronized=True), r"`group_size` must be a positive int"),
    "group_alone": (dict(group_size=2), r"`group_size` needs `synchronized=True`"),
    "both": (dict(virtual_batch_size=2, synchronized=True), r"cannot be synchronized"),
    "max_update": (dict(max_update=0.0), r"`max_update` must be a positive number or None"),
}


@pytest.mark.parametrize("arguments, message", REJECTED.values(), ids=REJECTED)
def test_rejects_arguments(arguments, message):
    with pytest.raises(ValueError, match="BatchNormalization 'bn': .*" + message):
        keras_norms.BatchNormalization(name="bn", **arguments)


@pytest.mark.parametrize(
    "arguments, shape, message",
    [
        ({}, (None, 4, None), r"size of a channel axis must be known.*axis=-1"),
        (dict(axis=3), (None, 4, 2), r"`axis` must lie in \[-3, 3\).*axis=3"),
        (dict(axis=[1, -2]), (None, 4, 2), r"must not name an axis twice"),
        (dict(axis=0, virtual_batch_size=2), (4, 2), r"cannot be a channel axis.*axis=0"),
        ({}, (4,), r"leave at least one to reduce"),
    ],
)
def test_rejects_shapes(arguments, shape, message):
    layer = keras_norms.BatchNormalization(name="bn", **arguments)
    with pytest.raises(ValueError, match="BatchNormalization 'bn': .*" + message):
        layer.build(shape)


def test_rejects_an_axis_out_of_range_in_compute_output_shape():
    with pytest.raises(ValueError, match=r"must lie in \[-2, 2\)"):
        keras_norms.BatchNormalization(axis=2).compute_output_shape((None, 3))


@pytest.mark.parametrize("training", [True, False])
def test_rejects_a_mask_that_cannot_apply(training):
    layer = keras_norms.BatchNormalization(name="bn")
    with pytest.raises(ValueError, match=r"'bn': a mask must have the shape of the leading"):
        layer(tf.ones((2, 3, 4)), mask=tf.ones((3, 2), tf.bool), training=training)
    np.testing.assert_array_equal(states(layer)[0], np.zeros(4))
