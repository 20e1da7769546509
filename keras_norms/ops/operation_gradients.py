"""Gradients of the library's operations, for those who differentiate the operations themselves.

The faces in `kernels.py` bring their own gradients. Forward-mode differentiation looks
through them at the operations that they run and asks TensorFlow's registry; there it
finds the gradient of the face, at the price of running the kernel again.
"""

import tensorflow as tf

from keras_norms.ops import kernels

# Operands in the order of the inputs; those with a name are there as often as that attribute says.
_OPERANDS = {
    "Moments": {"x": None, "weights": "num_weights"},
    "Sums": {
        "u": "num_u",
        "v": "num_v",
        "center": "num_center",
        "scale": "num_scale",
        "shift": "num_shift",
        "weights": "num_weights",
    },
    "Blend": {
        "u": "num_u",
        "v": "num_v",
        "a": "num_u",
        "b": "num_v",
        "c": "num_c",
        "center": "num_center",
        "weights": "num_weights",
    },
}


def _gradient(name, op, gradients):
    face = getattr(kernels, name.lower())
    present = [key for key, count in _OPERANDS[name].items() if not count or op.get_attr(count)]
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


for _name in _OPERANDS:
    _register(_name)
