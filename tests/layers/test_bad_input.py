"""Bad input: one sentence that names the layer, the rule and what was received."""

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms import keras_api
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
    "max_update_epsilon": (dict(max_update=1.0, epsilon=0.0), r"`max_update` needs an `epsilon`"),
    **{
        f"accumulate_{value}": (
            dict(accumulate_steps=value),
            r"`accumulate_steps` must be an int above 0. Received: accumulate_steps=",
        )
        for value in (0, -1, 1.5, True, "2", None)
    },
    "accumulate_virtual": (
        dict(accumulate_steps=2, virtual_batch_size=2),
        r"averaged and those of accumulated batches merged.*accumulate_steps=2, virtual_batch",
    ),
    "flag": (dict(center="no"), r"`center` must be a bool. Received: center='no'"),
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
        ({}, (4,), r"must have a known rank, 2 or more. Received: rank=1"),
        (dict(axis=[0, 1]), (4, 2), r"leave at least one to reduce"),
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


def test_numpy_numbers_become_plain_in_the_config():
    layer = keras_norms.BatchNormalization(
        axis=np.int64(-1), momentum=np.float32(0.5), virtual_batch_size=np.int32(2), center=np.True_
    )
    config = json.loads(json.dumps(layer.get_config()))
    assert (config["axis"], config["momentum"], config["virtual_batch_size"]) == (-1, 0.5, 2)


@pytest.mark.parametrize("training", ["yes", float("nan"), [False], 2])
def test_rejects_training_other_than_a_bool(training):
    layer = keras_norms.BatchNormalization(name="bn")
    with pytest.raises(ValueError, match="'bn': `training` must be a bool or a scalar tensor"):
        layer(tf.ones((2, 3)), training=training)


def test_rejects_a_vector_for_training():
    layer = keras_norms.BatchNormalization(name="bn")
    layer.build((None, 3))
    call = tf.function(lambda x, training: layer(x, training=training))
    with pytest.raises(ValueError, match="'bn': `training` must be a bool or a scalar tensor"):
        call(tf.ones((2, 3)), tf.constant([True, False, True]))


@pytest.mark.parametrize("dtype", ["complex64", "string"])
def test_rejects_masks_of_other_dtypes(dtype):
    mask = tf.constant(["a", "b"]) if dtype == "string" else tf.ones(2, dtype)
    with pytest.raises(ValueError, match=f"bools or non-negative numbers.*mask.dtype={dtype}"):
        keras_norms.BatchNormalization()(tf.ones((2, 3)), mask=mask, training=True)


def test_rejects_complex_inputs():
    layer = keras_norms.BatchNormalization(name="bn")
    layer.build((None, 3))
    with pytest.raises(ValueError, match="'bn': `inputs` must be a dense tensor of real numbers"):
        layer(tf.ones((2, 3), tf.complex64), training=True)


def test_rejects_synchronized_false():
    with pytest.raises(ValueError, match="always synchronized.*Received: synchronized=False"):
        keras_norms.SyncBatchNormalization(synchronized=False)
    assert keras_norms.SyncBatchNormalization(synchronized=True).synchronized
