"""How a mask is read: which axes its sizes belong to, and which masks are refused."""

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.ops.weights import row_weights

pytestmark = pytest.mark.each_tensorflow

N, T, H, C = 2, 3, 4, 5
READINGS = {
    "last_batch": ((N, T, C), (2,), (N,), (N, 1, 1)),
    "last_steps": ((N, T, C), (2,), (N, T), (N, T, 1)),
    "last_full": ((N, T, C), (2,), (N, T, 1), (N, T, 1)),
    "last_broadcast": ((N, T, H, C), (3,), (N, 1, H), (N, 1, H, 1)),
    "first_batch": ((N, C, T), (1,), (N,), (N, 1, 1)),
    "first_steps": ((N, C, T), (1,), (N, T), (N, 1, T)),
    "first_full": ((N, C, T), (1,), (N, 1, T), (N, 1, T)),
    "first_spatial": ((N, C, T, H), (1,), (N, T, H), (N, 1, T, H)),
    "keras_masking": ((N, C, T), (1,), (N, C), (N, C, 1)),
    "one_channel": ((N, 1, T), (1,), (N, T), (N, 1, T)),
    "several_axes": ((N, T, H, C), (1, 3), (N, H), (N, 1, H, 1)),
}


@pytest.mark.parametrize("shape, axes, mask_shape, read_as", READINGS.values(), ids=READINGS)
@pytest.mark.parametrize("known", [True, False], ids=["static", "dynamic"])
def test_readings(rng, shape, axes, mask_shape, read_as, known):
    mask = rng.integers(0, 2, mask_shape).astype(bool)
    x = np.zeros(shape, np.float32)
    target = [mask_shape[1] if read_as[a] == C and a in axes else 1 for a in axes]
    expected_shape = [target[axes.index(a)] if a in axes else n for a, n in enumerate(shape)]
    expected = np.broadcast_to(mask.reshape(read_as), expected_shape)

    def read(x, mask):
        return row_weights(mask, x, axes)

    if not known:
        # Batch and other sizes unknown, channels known; so Keras builds its masks.
        spec = [n if a in axes else None for a, n in enumerate(shape)]
        sizes = [n if n in (1, C) else None for n in mask_shape]
        signature = [tf.TensorSpec(spec, tf.float32), tf.TensorSpec(sizes, tf.bool)]
        read = tf.function(read, input_signature=signature)
    np.testing.assert_array_equal(read(tf.constant(x), tf.constant(mask)), expected)


def test_weights_are_constants():
    mask = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(mask)
        weights = row_weights(mask, tf.zeros((2, 3)), (1,))
    assert tape.gradient(weights, mask) is None


@pytest.mark.parametrize(
    "shape, axes, mask_shape",
    [
        ((N, T, C), (2,), (T,)),
        ((N, T, C), (2,), (T, N)),
        ((N, T, C), (2,), (N, T, C)),
        ((N, T, C), (2,), (N, C)),
        ((N, C, T), (1,), (N, H)),
        ((N, C, T), (1,), (N, C, 1)),
        ((N, C), (1,), ()),
        ((N, C), (1,), (N, 1, 1)),
    ],
)
def test_rejects_a_mask_that_cannot_apply(shape, axes, mask_shape):
    with pytest.raises(ValueError, match=r"Sync 'a': a mask must have.*Received: mask.shape="):
        row_weights(tf.ones(mask_shape), tf.zeros(shape), axes, "Sync 'a'")
