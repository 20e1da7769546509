"""Sums over everything but the channels, exact enough for statistics, in plain TensorFlow."""

import functools
import math

import tensorflow as tf

from keras_norms.ops.layout import (
    full_shape,
    other_axes,
    rows_per_segment,
    segment_count,
    segment_ids,
)


def total_of(values, axis, segment_size):
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
        return total_of(weights, axis, segment_size)
    channels = x.shape[axis]
    shape = full_shape(x)
    if segment_size is None and channels:
        # Two operations; the constant has the shape of the result, which saves a reshape.
        size = tf.cast(tf.size(x, out_type=tf.int64), tf.float64)
        return size / tf.constant([channels], tf.float64)
    if segment_size is None:
        return tf.reshape(_product([shape[a] for a in other_axes(axis, x.shape.rank)]), [1])
    size = rows_per_segment(segment_size)
    first_rows = tf.range(segment_count(x, size)) * size
    rows = tf.minimum(size, shape[0] - first_rows)
    inner = [shape[a] for a in other_axes(axis, x.shape.rank) if a != 0]
    return tf.expand_dims(tf.cast(rows, tf.float64) * _product(inner), -1)


def _product(sizes):
    """In float64, which counts exactly where int32 overflows."""
    known = math.prod(size for size in sizes if isinstance(size, int))
    unknown = [tf.cast(size, tf.float64) for size in sizes if not isinstance(size, int)]
    return functools.reduce(tf.multiply, unknown, tf.constant(known, tf.float64))
