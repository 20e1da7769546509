"""What a layer adds to the graph of a training step, where each kernel is one operation."""

import types

import pytest
import tensorflow as tf

import keras_norms
from keras_norms.ops import kernels
from keras_norms.statistics import moments, normalize

# Bookkeeping, for which nothing runs.
FREE = {"Const", "Identity", "IdentityN", "NoOp", "Placeholder"}
KERNEL = "PyFuncStateless"
SHAPE = (16, 8, 8, 4)


def one_operation(like, vectors, *tensors):
    """A kernel's place in a graph; it is traced and never run."""
    dtypes = [like.dtype] if vectors is None else [tf.float64] * len(vectors)
    given = [tensor for tensor in tensors if tensor is not None]
    results = tf.numpy_function(lambda *arrays: arrays, given, dtypes, stateful=False)
    for result, size in zip(results, vectors or [None], strict=True):
        result.set_shape(like.shape if size is None else [size])
    return results


def one_operation_moments(x, *, axis, weights=None, segment_size=None):
    return one_operation(x, [1, x.shape[axis], x.shape[axis]], x, weights)


def one_operation_sums(
    u, v=None, center=None, *, axis, weights=None, weighted=False, segment_size=None
):
    assert v is not None
    return one_operation(u, [u.shape[axis]] * 2, u, v, center, weights)


def one_operation_blend(
    u=None,
    v=None,
    *,
    a=None,
    b=None,
    c=None,
    center=None,
    axis,
    weights=None,
    weighted=False,
    segment_size=None,
):
    return one_operation(v, None, u, v, a, b, c, center, weights)[0]


@pytest.fixture(autouse=True)
def kernels_of_one_operation(monkeypatch):
    stand_in = types.SimpleNamespace(
        moments=one_operation_moments, sums=one_operation_sums, blend=one_operation_blend
    )
    for module in (kernels, moments, normalize):
        monkeypatch.setattr(module, "kernels_in_use", lambda: stand_in)


def training_step(layer, shape, dtype="float32", mask=None):
    """The operations of forward and backward pass and the update of the state."""
    layer.build(SHAPE)

    @tf.function(autograph=False)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        return y, tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)

    spec = tf.TensorSpec(shape, dtype)
    operations = step.get_concrete_function(spec, spec).graph.get_operations()
    return [operation for operation in operations if operation.type not in FREE]


@pytest.mark.parametrize(
    "options, shape, dtype",
    [
        ({}, SHAPE, "float32"),
        ({}, (None, None, None, 4), "float32"),
        (dict(axis=1), SHAPE, "float32"),
        (dict(dtype="mixed_bfloat16"), SHAPE, "bfloat16"),
    ],
    ids=["static", "unknown sizes", "channels first", "bfloat16"],
)
def test_a_plain_training_step_has_at_most_60_operations(options, shape, dtype):
    operations = training_step(keras_norms.BatchNormalization(**options), shape, dtype)
    assert len(operations) <= 60


@pytest.mark.parametrize("masked", [False, True])
def test_only_the_four_passes_touch_activations(masked):
    """Moments and blend forward, sums and blend backward; beside y and dx nothing is made."""

    def activations(tensors):
        # TensorFlow prepares zeros for gradients that are not asked for; unread, they are not made.
        return [t for t in tensors if t.shape == SHAPE and t.consumers()]

    mask = tf.ones(SHAPE[:-1], tf.bool) if masked else None
    operations = training_step(keras_norms.BatchNormalization(), SHAPE, mask=mask)
    touching = [op for op in operations if activations([*op.inputs, *op.outputs])]
    assert [op.type for op in touching] == [KERNEL] * 4
    assert sum(len(activations(op.outputs)) for op in touching) == 2
