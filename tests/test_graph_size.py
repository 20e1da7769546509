"""What a layer on the compiled library adds to the graph of a training step."""

import pytest
import tensorflow as tf

import keras_norms

# Bookkeeping, for which nothing runs.
FREE = {"Const", "Identity", "IdentityN", "NoOp", "Placeholder"}
PASSES = ["KerasNorms>Moments", "KerasNorms>Blend", "KerasNorms>Sums", "KerasNorms>Blend"]
SHAPE = (16, 8, 8, 4)


@pytest.fixture(autouse=True)
def on_the_library(native):
    del native
    with keras_norms.implementation("native"):
        yield


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
    assert [op.type for op in touching] == PASSES
    assert sum(len(activations(op.outputs)) for op in touching) == 2
