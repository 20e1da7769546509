"""Rounding to small number formats in one pass, with straight-through gradients.

First each value is rounded to a floating-point format, then groups of neighbours along an axis are
given a shared exponent (block floating point). Either step may be left out. The gradient passes
as if nothing were rounded, in a format of its own where one is given.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.float_format import FloatFormat

ROUNDINGS = ("nearest_even", "truncate", "stochastic")
ALIGNMENTS = ("largest", "second_largest")
DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
# Sets the random numbers of a gradient apart from those of the values.
_SEED_OF_GRADIENT = 0x5851F42D4C957F2D


class Rounding(NamedTuple):
    """What values are rounded to.

    Attributes:
        format: the format of single values, or None to leave them.
        rounding: one of `ROUNDINGS`, to the format.
        subnormals: whether the format has values below its smallest normal one.
        block_size: values that share an exponent, or None where each keeps its own.
        block_mantissa_bits: of the largest values of a block, with the leading 1.
        alignment: one of `ALIGNMENTS`: the exponent that others are aligned to.
    """

    format: FloatFormat | None = None
    rounding: str = "nearest_even"
    subnormals: bool = True
    block_size: int | None = None
    block_mantissa_bits: int | None = None
    alignment: str = "largest"

    @property
    def is_stochastic(self):
        return self.format is not None and self.rounding == "stochastic"


def rounded(x, axis, forward, backward=None, seed=None):
    """Returns `x` rounded as `forward` says, with a gradient that is rounded as `backward` says.

    Args:
        x: tensor of a dtype of `DTYPES`, which the result has too; bits that it does not have are
            not needed, and values saturate at the largest one that the dtype holds as well.
        axis: where the blocks are, non-negative.
        forward: `Rounding` or None, which leaves the values.
        backward: `Rounding` or None, which leaves the gradient. Gradients of the gradient are
            rounded likewise.
        seed: scalar int64 tensor, for stochastic rounding; None draws one from TensorFlow's global
            generator whenever it is run.
    """
    if seed is None and any(r is not None and r.is_stochastic for r in (forward, backward)):
        seed = tf.random.uniform([], tf.int64.min, tf.int64.max, tf.int64)
    y = tf.identity(x) if forward is None else _straight_through(x, axis, forward, seed)
    return y if backward is None else _with_rounded_gradient(y, axis, backward, seed)


def _straight_through(x, axis, rounding, seed):
    """`x` rounded, with the gradient of the identity."""
    if kernels_in_use().rounds_straight_through(x):
        return _run(x, axis, rounding, seed)

    @tf.custom_gradient
    def op(x):
        return _run(x, axis, rounding, seed), lambda dy: dy

    return op(x)


def _with_rounded_gradient(x, axis, rounding, seed):
    """`x` itself, whose gradient is rounded."""

    @tf.custom_gradient
    def op(x):
        def gradient(dy):
            own = None if seed is None else tf.bitwise.bitwise_xor(seed, _SEED_OF_GRADIENT)
            return rounded(dy, axis, rounding, rounding, own)

        return tf.identity(x), gradient

    return op(x)


def _run(x, axis, rounding, seed):
    """Brings `x` into rank 2 or more, as the kernels want it."""
    seed = seed if rounding.is_stochastic else None
    if x.shape.rank is not None and x.shape.rank >= 2:
        return kernels_in_use().rounded(x, axis, rounding, seed)
    shape = tf.shape(x)
    y = kernels_in_use().rounded(tf.reshape(x, [1, -1]), 1, rounding, seed)
    return tf.ensure_shape(tf.reshape(y, shape), x.shape)
