"""What a layer on the compiled library adds to the graph of a training step."""

import pytest
import tensorflow as tf

import keras_norms

# Bookkeeping, for which nothing runs.
FREE = {"Const", "Identity", "IdentityN", "NoOp", "Placeholder"}
PASSES = ["KerasNorms>Moments", "KerasNorms>Blend", "KerasNorms>Sums", "KerasNorms>Blend"]
IN_ONE = ["KerasNorms>Normalize", "KerasNorms>NormalizeGrad"]
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
            targets = [layer(x, training=True, mask=mask), *layer.losses]
        ones = [tf.ones_like(loss) for loss in targets[1:]]
        variables = layer.trainable_variables
        return targets, tape.gradient(targets, [x, *variables], output_gradients=[dy, *ones])

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
        (dict(activation="relu"), SHAPE, "float32"),
    ],
    ids=["static", "unknown sizes", "channels first", "bfloat16", "activation"],
)
def test_a_plain_training_step_has_at_most_9_operations(options, shape, dtype):
    """Four variables are read and two written, and one operation each way does the rest."""
    operations = training_step(keras_norms.BatchNormalization(**options), shape, dtype)
    assert len(operations) <= 9
    assert [op.type for op in operations if op.type.startswith("KerasNorms>")] == IN_ONE


def test_a_step_of_other_layers_has_few_more_operations():
    """With default schedules, the losses that layers add, and a gate with a state of its own."""
    renorm, batchless, regularized, adaptive = (
        training_step(getattr(keras_norms, name)(), SHAPE)
        for name in (
            "BatchRenormalization",
            "BatchlessNormalization",
            "RegularizedBatchNormalization",
            "AdaptiveBatchNormalization",
        )
    )
    assert len(renorm) <= 95 and len(batchless) <= 70 and len(regularized) <= 40
    assert len(adaptive) <= 140
    # The means of the samples are one more read.
    passes = [op.type for op in adaptive if op.type.startswith("KerasNorms>")]
    assert sorted(passes) == sorted([*PASSES, "KerasNorms>Moments"])


def test_ranges_are_one_read_forward_and_two_places_a_chunk_backward():
    """The second backward pass does not read the input."""
    layer = keras_norms.RangeBatchNormalization()
    passes = [op for op in training_step(layer, SHAPE) if op.type.startswith("KerasNorms>")]
    kinds = ["KerasNorms>Extremes", *PASSES[1:], "KerasNorms>AddAt"]
    assert sorted(op.type for op in passes) == sorted(kinds)
    (backward,) = (op for op in passes if op.type == PASSES[1] and op.get_attr("num_u"))
    assert backward.get_attr("num_v") == 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["BatchNormalization", "BatchlessNormalization"])
def test_only_kernels_touch_activations(name, masked):
    """Beside y and dx nothing of the size of an activation is made.

    Batch normalization: one operation forward and one back; with a mask moments and blend forward,
    sums and blend backward. Batchless: one pass forward and one back.
    """

    def activations(tensors):
        # TensorFlow prepares zeros for gradients that are not asked for; unread, they are not made.
        return [t for t in tensors if t.shape == SHAPE and t.consumers()]

    of_batches = PASSES if masked else IN_ONE
    passes = {"BatchNormalization": of_batches, "BatchlessNormalization": ["KerasNorms>Sums"] * 2}
    mask = tf.ones(SHAPE[:-1], tf.bool) if masked else None
    operations = training_step(getattr(keras_norms, name)(), SHAPE, mask=mask)
    touching = [op for op in operations if activations([*op.inputs, *op.outputs])]
    assert [op.type for op in touching] == passes[name]
    assert sum(len(activations(op.outputs)) for op in touching) == 2
