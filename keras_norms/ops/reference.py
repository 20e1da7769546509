"""The kernels in plain TensorFlow: no gradients here, the faces have those.

Vectors are float64, `[channels]` or, with `segment_size`, `[segments, channels]`.
Activations are read and written in their own dtype and computed in float32
(float64 for float64). Three rules keep the numbers exact at any offset:

* sums run in float32 over one axis or a block of rows and in float64 beyond;
* activations are centered before they are multiplied or squared;
* what float32 cannot hold of a float64 center is put back into the vectors.

Weights have the rank of the activation and full size on the non-channel axes.
A position of weight 0 that holds NaN or Inf is read as the center everywhere.
With `weighted=False` that rule is all that the weights are used for.
"""

from typing import Any

import tensorflow as tf

from keras_norms.ops.extremes import add_at, extremes
from keras_norms.ops.layout import expand_vector
from keras_norms.ops.rectifier import sum_of
from keras_norms.ops.reference_rounding import rounded, rounds_straight_through
from keras_norms.ops.totals import count_of, total_of

__all__ = [
    "add_at",
    "blend",
    "extremes",
    "has_gradient",
    "moments",
    "rounded",
    "rounds_straight_through",
    "sums",
]


def has_gradient(operands):
    """Whether TensorFlow differentiates these in as few passes as `kernels.py`: never."""
    del operands
    return False


def moments(x, *, axis, weights=None, segment_size=None):
    """Count, mean and centred sum of squares per channel; zeros where the count is 0."""
    dtype = _compute_dtype(x)
    x = tf.cast(x, dtype)

    def total(values):
        if weights is not None:
            values = tf.math.multiply_no_nan(values, weights)
        return total_of(values, axis, segment_size)

    count = count_of(x, axis=axis, weights=weights, segment_size=segment_size)
    shift = _rounded(tf.math.divide_no_nan(total(x), count), dtype)
    centred = x - expand_vector(tf.cast(shift, dtype), x, axis, segment_size)
    # The shift is the mean up to the rounding of a float32 sum; the rest is exact.
    sum_centred = total(centred)
    residual = tf.math.divide_no_nan(sum_centred, count)
    mean = shift + residual
    m2 = tf.maximum(total(tf.square(centred)) - sum_centred * residual, 0.0)
    return count, mean, m2


def sums(operands):
    """`sum w u` and, where `v` is given, `sum w u (v - center)` per channel.

    Without `u`, `u` is `v - center`, and the center is rounded to the compute dtype. With `scale`,
    also `y = scale u`, or `y = scale (v - center) + shift`.
    """
    u, v, weights, axis = operands.u, operands.v, operands.weights, operands.axis
    segment_size = operands.segment_size
    like = v if v is not None else u
    dtype = _compute_dtype(like)
    high, low = _split(operands.center, dtype)
    centred = None if v is None else _centred(v, high, axis, weights, segment_size)
    values: Any = centred if u is None else tf.cast(u, dtype)
    weighed = values * tf.cast(weights, dtype) if operands.weighted else values
    sum_u = total_of(weighed, axis, segment_size)
    if v is None:
        return sum_u, None
    sum_uv = total_of(weighed * centred, axis, segment_size)
    if u is not None and low is not None:
        sum_uv = sum_uv - low * sum_u
    if operands.scale is None:
        return sum_u, sum_uv
    y = values * expand_vector(tf.cast(operands.scale, dtype), like, axis, segment_size)
    if operands.shift is not None:
        y = y + expand_vector(tf.cast(operands.shift, dtype), like, axis, segment_size)
    return sum_u, sum_uv, tf.cast(y, like.dtype)


def blend(operands):
    """`a u + w (b (v - center) + c)`, every term optional, and the rectifier of that."""
    u, v, b, c, weights = operands.u, operands.v, operands.b, operands.c, operands.weights
    axis, segment_size = operands.axis, operands.segment_size
    like = v if v is not None else u
    dtype = _compute_dtype(like)

    def expand(vector):
        return expand_vector(tf.cast(vector, dtype), like, axis, segment_size)

    term = None
    if v is not None:
        high, low = _split(operands.center, dtype)
        if low is not None:
            c = -b * low if c is None else c - b * low
        term = _centred(v, high, axis, weights, segment_size) * expand(b)
    if c is not None:
        term = expand(c) if term is None else term + expand(c)
    if operands.weighted and term is not None:
        term = term * tf.cast(weights, dtype)
    if u is not None:
        scaled = tf.cast(u, dtype)
        if operands.a is not None:
            scaled = scaled * expand(operands.a)
        if term is None:
            term = scaled
        else:
            term = scaled + term if v is None else sum_of(term, scaled)
    if operands.rectifier is not None:
        term = operands.rectifier(term)
    return tf.cast(term, like.dtype)


def _compute_dtype(x):
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _split(center, dtype):
    """A center in the compute dtype, and the part of it that does not fit there."""
    if center is None or center.dtype == dtype:
        return center, None
    high = _rounded(center, dtype)
    return tf.cast(high, dtype), center - high


def _rounded(center, dtype):
    """A float64 vector as float64 numbers that `dtype` holds exactly.

    XLA of TensorFlow 2.16 and 2.17 leaves out a conversion to float32 and back, but not this.
    """
    if dtype == tf.float64:
        return center
    kept = ~((1 << 52 - 23) - 1)  # The bits of a mantissa that float32 does not have are cleared.
    bits = tf.bitwise.bitwise_and(tf.bitcast(center, tf.int64), tf.constant(kept, tf.int64))
    return tf.bitcast(bits, tf.float64)


def _centred(v, center, axis, weights, segment_size):
    """`v - center`, and 0 where a position of weight 0 is not finite."""
    centred = tf.cast(v, _compute_dtype(v))
    if center is not None:
        centred = centred - expand_vector(center, v, axis, segment_size)
    if weights is not None:
        valid = tf.logical_or(weights > 0, tf.math.is_finite(centred))
        centred = tf.where(valid, centred, tf.zeros([], centred.dtype))
    return centred
