"""The kernels of the compiled library: one TensorFlow operation each.

Signatures and meaning are those of `reference.py`, which runs what the library does not know: a
mask per channel, and activations of different dtypes.
"""

import math

import tensorflow as tf

from keras_norms.ops import library, reference
from keras_norms.ops.extremes import Extremes
from keras_norms.ops.operands import TENSORS
from keras_norms.ops.rectifier import Rectifier

# Inputs that no operation has as optional ones.
_ALWAYS_THERE = {"x", "dy", "count", "mean", "variance"}
# Inputs that are there as often as another one share its attribute.
_COUNTED_WITH = {
    ("KerasNorms>Blend", "b"): "v",
    ("KerasNorms>NormalizeGrad", "of_mean"): "of",
    ("KerasNorms>NormalizeGrad", "of_variance"): "of",
}


def has_gradient(operands):
    """Whether the library has an operation for these operands; it has a registered gradient."""
    are_rows = _are_row_weights(operands.weights, operands.axis)
    return are_rows and _have_one_dtype(operands.u, operands.v)


def moments(x, *, axis, weights=None, segment_size=None):
    if not _are_row_weights(weights, axis):
        return reference.moments(x, axis=axis, weights=weights, segment_size=segment_size)
    return library.ops().keras_norms_moments(
        x=x, weights=optional(weights), axis=axis, segment_size=segment_size or 0
    )


def extremes(x, *, axis, chunks, weights=None, segment_size=None):
    if not _are_row_weights(weights, axis):
        return reference.extremes(
            x, axis=axis, chunks=chunks, weights=weights, segment_size=segment_size
        )
    found = library.ops().keras_norms_extremes(
        x=x, weights=optional(weights), axis=axis, segment_size=segment_size or 0, chunks=chunks
    )
    return Extremes(*found)


def add_at(x, values, high_at, low_at):
    return library.ops().keras_norms_add_at(x=x, values=values, high_at=high_at, low_at=low_at)


def sums(operands):
    if not has_gradient(operands):
        return reference.sums(operands)
    sum_u, sum_uv, y = _run("sums", operands)
    found = sum_u, sum_uv[0] if sum_uv else None
    return found if operands.scale is None else (*found, y[0])


def blend(operands):
    if not has_gradient(operands):
        return reference.blend(operands)
    return _run("blend", operands, **rectifier_attributes(operands.rectifier))


def rounds_straight_through(x):
    """Whether the operation of `rounded` has a gradient, that of the identity."""
    return x.dtype != tf.float64


def rounded(x, axis, rounding, seed):
    if not rounds_straight_through(x):
        return reference.rounded(x, axis, rounding, seed)
    return library.ops().keras_norms_round(
        x=x,
        seed=optional(seed),
        exponent_bits=rounding.format.exponent_bits if rounding.format else 0,
        mantissa_bits=rounding.format.mantissa_bits if rounding.format else 0,
        rounding=rounding.rounding,
        subnormals=rounding.subnormals,
        axis=axis,
        block_size=rounding.block_size or 0,
        block_mantissa_bits=rounding.block_mantissa_bits or 0,
        alignment=rounding.alignment,
    )


def _run(name, operands, **attributes):
    tensors = {key: getattr(operands, key) for key in TENSORS[name]}
    activations = {key: tensors.pop(key) for key in ("u", "v", "weights")}
    given = activations | _of_one_dtype(tensors)
    return getattr(library.ops(), f"keras_norms_{name}")(
        axis=operands.axis,
        weighted=operands.weighted,
        segment_size=operands.segment_size or 0,
        **attributes,
        **{key: optional(tensor) for key, tensor in given.items()},
    )


def rectifier_attributes(rectifier):
    """A `Rectifier`, or None, as attributes of an operation."""
    if rectifier is None:
        return {}
    cap = 0.0 if rectifier.cap == math.inf else rectifier.cap
    return dict(rectified=True, negative_slope=rectifier.negative_slope, cap=cap)


def rectifier_of(op):
    """The other way."""
    if not op.get_attr("rectified"):
        return None
    return Rectifier(op.get_attr("negative_slope"), op.get_attr("cap") or math.inf)


def inputs_of(op, names):
    """The inputs of an operation by name, without those that are absent; `names` is their order."""
    given, left = {}, list(op.inputs)
    for name in names:
        counted = _COUNTED_WITH.get((op.type, name), name)
        if name in _ALWAYS_THERE or op.get_attr(f"num_{counted}") > 0:
            given[name] = left.pop(0)
    return given


def optional(tensor):
    """An optional operand of the library's operations: a list of one tensor, or of none."""
    return [] if tensor is None else [tensor]


def _of_one_dtype(vectors):
    """Optional vectors, in float64 where they are of different dtypes."""
    if _have_one_dtype(*vectors.values()):
        return vectors
    return {k: t if t is None else tf.cast(t, tf.float64) for k, t in vectors.items()}


def _are_row_weights(weights, axis):
    return weights is None or weights.shape[axis] == 1


def _have_one_dtype(*tensors):
    return len({tensor.dtype for tensor in tensors if tensor is not None}) <= 1
