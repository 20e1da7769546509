"""Gradients of the library's operations, for those who differentiate the operations themselves.

The faces in `kernels.py` bring their own gradients. Forward-mode differentiation looks
through them at the operations that they run and asks TensorFlow's registry; there it
finds the gradient of the face, at the price of running the kernel again.
"""

import tensorflow as tf

from keras_norms.ops import kernels
from keras_norms.ops.operands import TENSORS

# Vectors that are there as often as an activation share its attribute.
_COUNTED_WITH = {("Blend", "a"): "u", ("Blend", "b"): "v"}


def _is_given(op, name, operand):
    return operand == "x" or op.get_attr(f"num_{_COUNTED_WITH.get((name, operand), operand)}") > 0


def _gradient(name, op, gradients):
    face = getattr(kernels, name.lower())
    present = [key for key in TENSORS[name.lower()] if _is_given(op, name, key)]
    inputs = list(op.inputs)
    options = dict(axis=op.get_attr("axis"), segment_size=op.get_attr("segment_size") or None)
    if name != "Moments":
        options["weighted"] = op.get_attr("weighted")
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        results = face(**dict(zip(present, inputs, strict=True)), **options)
    results = [result for result in tf.nest.flatten(results) if result is not None]
    return tape.gradient(results, inputs, output_gradients=list(gradients))


def _register(name):
    @tf.RegisterGradient(f"KerasNorms>{name}")
    def gradient(op, *gradients):
        return _gradient(name, op, gradients)


for _name in ("Moments", "Sums", "Blend"):
    _register(_name)
