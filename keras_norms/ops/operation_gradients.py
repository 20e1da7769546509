"""Gradients of the library's operations, registered once for the process.

They are those of `kernels.py`, with the operands read off the operation.
"""

import tensorflow as tf

from keras_norms.ops import kernels
from keras_norms.ops.extremes import Extremes, extremes_gradient
from keras_norms.ops.native import inputs_of, rectifier_of
from keras_norms.ops.operands import TENSORS, Operands


def _layout(op):
    return dict(axis=op.get_attr("axis"), segment_size=op.get_attr("segment_size") or None)


def _in_order_of_inputs(inputs, gradients):
    """None for weights, which are constants."""
    weights = [None] if "weights" in inputs else []
    tensors = {name: tensor for name, tensor in inputs.items() if name != "weights"}
    return [*kernels.in_order(gradients, tensors), *weights]


@tf.RegisterGradient("KerasNorms>Moments")
def _moments(op, *gradients):
    inputs = inputs_of(op, TENSORS["moments"])
    x, weights = inputs["x"], inputs.get("weights")
    dx = kernels.moments_gradient(x, op.outputs, gradients, weights=weights, **_layout(op))
    return _in_order_of_inputs(inputs, {"x": dx})


@tf.RegisterGradient("KerasNorms>Extremes")
def _extremes(op, *gradients):
    x, *weights = op.inputs
    layout = dict(chunks=op.get_attr("chunks"), weights=weights[0] if weights else None)
    found, gradients = Extremes(*op.outputs), Extremes(*gradients)
    dx = extremes_gradient(x, found, gradients, **layout, **_layout(op))
    return [dx, *(None for _ in weights)]


@tf.RegisterGradient("KerasNorms>AddAt")
def _add_at(op, dy):
    _, values, high_at, low_at = op.inputs
    flat = tf.reshape(dy, [-1])
    of_values = tf.gather(flat, high_at) - tf.gather(flat, low_at)
    return dy, tf.cast(of_values, values.dtype), None, None


@tf.RegisterGradient("KerasNorms>Round")
def _round(op, dy):
    return [dy, *[None for _ in op.inputs[1:]]]


@tf.RegisterGradient("KerasNorms>Sums")
def _sums(op, *gradients):
    inputs = inputs_of(op, TENSORS["sums"])
    operands = Operands(**inputs, weighted=op.get_attr("weighted"), **_layout(op))
    return _in_order_of_inputs(inputs, kernels.sums_gradient(operands, *gradients))


@tf.RegisterGradient("KerasNorms>Blend")
def _blend(op, dy):
    inputs = inputs_of(op, TENSORS["blend"])
    operands = Operands(**inputs, weighted=op.get_attr("weighted"), **_layout(op))
    operands = operands._replace(rectifier=rectifier_of(op))
    return _in_order_of_inputs(inputs, kernels.blend_gradient(operands, op.outputs[0], dy))
