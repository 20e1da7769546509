"""Shapes of what layers of a model receive. The model is traced, and nothing is computed."""

from typing import Any

import tensorflow as tf

from keras_norms.arguments import is_size, require
from keras_norms.keras_api import keras
from keras_norms.keras_models import forget_losses
from keras_norms.models.observed import is_symbolic, observed
from keras_norms.printable import called, printable

BATCH_SIZE = 32  # Where neither the caller nor the model says one.


def input_shapes(model, layers, batch_size, input_shape, owner):
    """Returns `{layer: shapes}`: the shapes of what a layer receives, one for each of its calls.

    Counted are the calls that the outputs of the model depend on.

    Args:
        model: a built Keras model.
        layers: those whose calls are of interest.
        batch_size: an int, or None for that of the model's inputs, or 32.
        input_shape: of an instance, a tuple; a list or dict of them for several inputs; or None
            for those that the model knows.
        owner: for messages.

    Raises:
        ValueError: if a size is not known, the model does not take such inputs, or a layer runs
            in a loop.
    """
    specs = _specs(model, batch_size, input_shape, owner)
    traced = {}

    @tf.function(autograph=False)
    def run(batch):
        outputs = model(batch, training=False)
        traced["graph"] = tf.compat.v1.get_default_graph()
        traced["needed"] = _ancestors(tf.nest.flatten(outputs))
        forget_losses(model)  # Tensors of this graph, of no use outside.

    with observed(layers) as calls:
        try:
            run.get_concrete_function(specs)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            shapes = [tuple(spec.shape) for spec in tf.nest.flatten(specs)]
            rule = "the model must take inputs of these shapes"
            message = f"{owner}: {rule}. Received: {', '.join(map(str, shapes))}."
            raise ValueError(message) from error
    found: dict = {}
    for call in calls:
        if is_symbolic(call.graph):
            continue
        place = f"{owner}: layer '{printable(call.layer.name)}'"
        if call.graph is not traced["graph"]:
            raise ValueError(
                f"{place} runs inside a tf.cond, a loop or a tf.function, where its calls cannot "
                "be counted."
            )
        if call.outputs.op in traced["needed"]:
            shape = call.inputs.shape
            rule = "all sizes of its input must be known"
            require(shape.is_fully_defined(), place, rule, shape=shape)
            found.setdefault(call.layer, []).append(tuple(shape.as_list()))
    return found


def _ancestors(tensors):
    """The operations that tensors of a graph depend on.

    Keras 2 calls a model that `TimeDistributed` wraps once more, to know its mask, and uses
    nothing of it.
    """
    left, found = [tensor.op for tensor in tensors], set()
    while left:
        op = left.pop()
        if op not in found:
            found.add(op)
            left += [tensor.op for tensor in op.inputs]
    return found


def symbolic_inputs(model):
    """The model's symbolic inputs, structured as it takes them, or None."""
    if isinstance(model, keras.Sequential):  # In Keras 3 it has no `input` until it is called.
        inputs = getattr(model, "inputs", None)
        return inputs[0] if inputs else None
    return getattr(model, "input", None)


def _specs(model, batch_size, input_shape, owner):
    """What the model is traced with."""
    structure = symbolic_inputs(model)
    if input_shape is not None:
        return _given_specs(structure, batch_size, input_shape, owner)
    rule = "`input_shape` must be given for a model that does not know its inputs"
    require(structure is not None, owner, rule, model=called(model))

    def spec(tensor):
        size, *shape = tensor.shape
        rule = "`input_shape` must be given for a model whose inputs have unknown sizes"
        require(None not in shape, owner, rule, shape=tuple(tensor.shape))
        return tf.TensorSpec([batch_size or size or BATCH_SIZE, *shape], tensor.dtype)

    return tf.nest.map_structure(spec, structure)


def _given_specs(structure, batch_size, input_shape, owner):
    def spec(shape):
        rule = "`input_shape` must be a tuple of positive ints, or a list or dict of them"
        is_shape = isinstance(shape, (tuple, list)) and all(map(is_size, shape))
        require(is_shape, owner, rule, input_shape=input_shape)
        return tf.TensorSpec([batch_size or BATCH_SIZE, *shape], keras.backend.floatx())

    is_list = isinstance(input_shape, list) and any(
        isinstance(shape, (tuple, list)) for shape in input_shape
    )
    specs: Any = None
    if isinstance(input_shape, dict):
        specs = {name: spec(shape) for name, shape in input_shape.items()}
    elif is_list:
        specs = [spec(shape) for shape in input_shape]
    else:
        specs = spec(input_shape)
    if structure is None:
        return specs
    inputs, given = tf.nest.flatten(structure), tf.nest.flatten(specs)
    rule = "`input_shape` must have a shape for each input of the model"
    require(len(inputs) == len(given), owner, rule, input_shape=input_shape)
    # The dtypes are those of the model: an embedding wants ints.
    typed = [tf.TensorSpec(g.shape, i.dtype) for i, g in zip(inputs, given, strict=True)]
    return tf.nest.pack_sequence_as(structure, typed)
