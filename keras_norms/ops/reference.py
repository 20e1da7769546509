"""The three kernels in plain TensorFlow: no gradients here, the faces have those.

Vectors are float64, `[channels]` or, with `segment_size`, `[segments, channels]`.
Activations are read and written in their own dtype and computed in float32
(float64 for float64). Three rules keep the numbers exact at any offset:

* sums run in float32 over one axis or a block of rows and in float64 beyond;
* activations are centred before they are multiplied or squared;
* what float32 cannot hold of a float64 centre is put back into the vectors.

Weights have the rank of the activation and full size on the non-channel axes.
A position of weight 0 that holds NaN or Inf is read as the centre everywhere.
With `weighted=False` that rule is all that the weights are used for.
"""

import functools
import math

import tensorflow as tf

from keras_norms.ops.layout import (
    expand_vector,
    full_shape,
    other_axes,
    segment_count,
    segment_ids,
)


def moments(x, *, axis, weights=None, segment_size=None):
    """Count, mean and centred sum of squares per channel; zeros where the count is 0."""
    dtype = _compute_dtype(x)
    x = tf.cast(x, dtype)

    def total(values):
        if weights is not None:
            values = tf.math.multiply_no_nan(values, weights)
        return _total(values, axis, segment_size)

    count = count_of(x, axis=axis, weights=weights, segment_size=segment_size)
    shift = tf.cast(tf.math.divide_no_nan(total(x), count), dtype)
    centred = x - expand_vector(shift, x, axis, segment_size)
    # The shift is the mean up to the rounding of a float32 sum; the rest is exact.
    sum_centred = total(centred)
    residual = tf.math.divide_no_nan(sum_centred, count)
    mean = tf.cast(shift, tf.float64) + residual
    m2 = tf.maximum(total(tf.square(centred)) - sum_centred * residual, 0.0)
    return count, mean, m2


def sums(
    u=None,
    v=None,
    center=None,
    *,
    scale=None,
    shift=None,
    axis,
    weights=None,
    weighted=False,
    segment_size=None,
):
    """`sum w u` and, where `v` is given, `sum w u (v - center)` per channel.

    Without `u`, `u` is `v - center`, and the centre is rounded to the compute dtype. With `scale`,
    also `y = scale u`, or `y = scale (v - center) + shift`.
    """
    like = v if v is not None else u
    dtype = _compute_dtype(like)
    high, low = _split(center, dtype)
    centred = None if v is None else _centred(v, high, axis, weights, segment_size)
    values = centred if u is None else tf.cast(u, dtype)
    weighed = values * tf.cast(weights, dtype) if weighted else values
    sum_u = _total(weighed, axis, segment_size)
    if v is None:
        return sum_u, None
    sum_uv = _total(weighed * centred, axis, segment_size)
    if u is not None and low is not None:
        sum_uv = sum_uv - low * sum_u
    if scale is None:
        return sum_u, sum_uv
    y = values * expand_vector(tf.cast(scale, dtype), like, axis, segment_size)
    if shift is not None:
        y = y + expand_vector(tf.cast(shift, dtype), like, axis, segment_size)
    return sum_u, sum_uv, tf.cast(y, like.dtype)


def blend(
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
    """`a u + w (b (v - center) + c)`, every term optional."""
    like = v if v is not None else u
    dtype = _compute_dtype(like)

    def expand(vector):
        return expand_vector(tf.cast(vector, dtype), like, axis, segment_size)

    term = None
    if v is not None:
        high, low = _split(center, dtype)
        if low is not None:
            c = -b * low if c is None else c - b * low
        term = _centred(v, high, axis, weights, segment_size) * expand(b)
    if c is not None:
        term = expand(c) if term is None else term + expand(c)
    if weighted and term is not None:
        term = term * tf.cast(weights, dtype)
    if u is not None:
        scaled = tf.cast(u, dtype) * expand(a)
        term = scaled if term is None else scaled + term
    return tf.cast(term, like.dtype)


def _compute_dtype(x):
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _split(center, dtype):
    """A centre in the compute dtype, and the part of it that does not fit there."""
    if center is None or center.dtype == dtype:
        return center, None
    high = tf.cast(center, dtype)
    return high, center - tf.cast(high, tf.float64)


def _centred(v, center, axis, weights, segment_size):
    """`v - center`, and 0 where a position of weight 0 is not finite."""
    centred = tf.cast(v, _compute_dtype(v))
    if center is not None:
        centred = centred - expand_vector(center, v, axis, segment_size)
    if weights is not None:
        valid = tf.logical_or(weights > 0, tf.math.is_finite(centred))
        centred = tf.where(valid, centred, tf.zeros([], centred.dtype))
    return centred


def _total(values, axis, segment_size):
    """Sums over everything but the channels, in float64 over all but one axis or block of rows."""
    axes = other_axes(axis, values.shape.rank)
    if values.dtype != tf.float64:
        if len(axes) > 1:
            values = tf.reduce_sum(values, axes[-1], keepdims=True)
        elif axes == [0] and segment_size is None:
            values = _sum_blocks(values)
    values = tf.cast(values, tf.float64)
    if segment_size is None:
        return tf.reduce_sum(values, axes)
    rows = tf.reduce_sum(values, axes[1:])
    return tf.math.unsorted_segment_sum(
        rows, segment_ids(values, segment_size), segment_count(values, segment_size)
    )


def _sum_blocks(values, size=64):
    """Sums of `size` rows each, and of the remainder. Leading slices copy nothing."""
    rows = full_shape(values)[0]
    whole = rows // size * size
    blocks = tf.reshape(values[:whole], [-1, size, full_shape(values)[1]])
    remainder = tf.reduce_sum(values[whole:], 0, keepdims=True)
    return tf.concat([tf.reduce_sum(blocks, 1), remainder], 0)


def count_of(x, *, axis, weights=None, segment_size=None):
    """The weight behind each channel's mean: `[1]`, or `[channels]` for a mask per channel."""
    if weights is not None:
        return _total(weights, axis, segment_size)
    channels = x.shape[axis]
    shape = full_shape(x)
    if segment_size is None and channels:
        # Two operations; the constant has the shape of the result, which saves a reshape.
        size = tf.cast(tf.size(x, out_type=tf.int64), tf.float64)
        return size / tf.constant([channels], tf.float64)
    if segment_size is None:
        return tf.reshape(_product([shape[a] for a in other_axes(axis, x.shape.rank)]), [1])
    first_rows = tf.range(segment_count(x, segment_size)) * segment_size
    rows = tf.minimum(segment_size, shape[0] - first_rows)
    inner = [shape[a] for a in other_axes(axis, x.shape.rank) if a != 0]
    return tf.expand_dims(tf.cast(rows, tf.float64) * _product(inner), -1)


def _product(sizes):
    """In float64, which counts exactly where int32 overflows."""
    known = math.prod(size for size in sizes if isinstance(size, int))
    unknown = [tf.cast(size, tf.float64) for size in sizes if not isinstance(size, int)]
    return functools.reduce(tf.multiply, unknown, tf.constant(known, tf.float64))
