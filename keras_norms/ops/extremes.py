"""Smallest and largest values in runs of consecutive positions, in plain TensorFlow.

The positions of a channel are counted in the order of memory: by sample, then along the other
axes. A batch, or each virtual batch, is cut into `chunks` runs. Where its n positions do not
divide, the first `n mod chunks` runs have one more than the others. No run has a single position
if that can be avoided: with fewer than `2 * chunks` positions there are only `n // 2` runs, at
least one.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_norms.ops.layout import full_shape, rows_per_segment


class Extremes(NamedTuple):
    """What is found in each run; `[chunks, channels]`, or `[segments, chunks, channels]`.

    Numbers are float64. Where nothing counts they are 0, and so are the places. Where a mean is
    not finite, the extremes may be anything.

    Attributes:
        count: how many positions count, with 1 in place of channels where they share it.
        mean: the mean of the values that count.
        low, high: the smallest and the largest of them.
        low_at, high_at: where the first of them is, an int64 place in the flattened `x`.
    """

    count: tf.Tensor
    mean: tf.Tensor
    low: tf.Tensor
    high: tf.Tensor
    low_at: tf.Tensor
    high_at: tf.Tensor


def extremes(x, *, axis, chunks, weights=None, segment_size=None):
    """Returns the `Extremes` of `x`; a position counts where the weight is above 0."""
    runs, run_of = _runs(x, axis, chunks, segment_size)
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    values = tf.cast(_by_position(x, axis), dtype)
    all_count = tf.ones([tf.shape(values)[0], 1], tf.bool)
    here = all_count if weights is None else _counts(weights, axis)
    positions = tf.range(tf.shape(values, out_type=tf.int64)[0])[:, tf.newaxis]

    def total(values):
        return tf.math.unsorted_segment_sum(values, run_of, runs)

    def first(extreme):
        """Where the first value of a run is that equals its extreme, and the extreme."""
        is_it = tf.logical_and(here, values == tf.gather(extreme, run_of))
        found = tf.where(is_it, positions, tf.int64.max)
        found = tf.math.unsorted_segment_min(found, run_of, runs)
        is_found = found < tf.int64.max
        extreme = tf.where(is_found, tf.cast(extreme, tf.float64), 0.0)
        return extreme, tf.where(is_found, _place(found, x, axis), tf.zeros_like(found))

    count = total(tf.cast(here, tf.float64))
    of_counted = tf.where(here, tf.cast(values, tf.float64), tf.zeros([], tf.float64))
    mean = tf.math.divide_no_nan(total(of_counted), count)
    infinity = tf.constant(math.inf, dtype)
    lowest = tf.math.unsorted_segment_min(tf.where(here, values, infinity), run_of, runs)
    highest = tf.math.unsorted_segment_max(tf.where(here, values, -infinity), run_of, runs)
    (low, low_at), (high, high_at) = first(lowest), first(highest)
    found = Extremes(count, mean, low, high, low_at, high_at)
    if segment_size is None:
        return found
    segments = runs // chunks
    return Extremes(*(tf.reshape(v, [segments, chunks, *full_shape(v)[1:]]) for v in found))


def known_counts(x, axis, weights, segment_size, chunks):
    """`count` of `Extremes`, `[chunks, 1]`, where the sizes of `x` say it already; else None."""
    sizes = [size for a, size in enumerate(x.shape) if a != axis]
    if weights is not None or segment_size is not None or None in sizes:
        return None
    positions = math.prod(sizes)
    used = max(1, min(chunks, positions // 2))
    short, longer = divmod(positions, used)
    counts = [short + (run < longer) if run < used else 0 for run in range(chunks)]
    return np.array(counts, float)[:, np.newaxis]


def add_at(x, values, high_at, low_at):
    """A copy of `x` with values added at the places `high_at`, subtracted at those of `low_at`.

    Where several values share a place, all but one must be 0.
    """
    return _added(x, tf.stack([high_at, low_at]), tf.stack([values, -values]))


def extremes_gradient(x, found, gradients, *, axis, chunks, weights=None, segment_size=None):
    """The gradient of `x`: a mean has it from all values that count, an extreme from its place."""
    _, run_of = _runs(x, axis, chunks, segment_size)
    of_runs = tf.math.divide_no_nan(gradients.mean, found.count)
    of_values = tf.gather(tf.reshape(of_runs, [-1, full_shape(of_runs)[-1]]), run_of)
    if weights is not None:
        of_values = tf.where(_counts(weights, axis), of_values, tf.zeros([], of_values.dtype))
    dx = _from_positions(tf.cast(of_values, x.dtype), x, axis)
    of_extremes = (tf.where(found.count > 0.0, g, 0.0) for g in (gradients.low, gradients.high))
    return _added(dx, tf.stack([found.low_at, found.high_at]), tf.stack([*of_extremes]))


def _runs(x, axis, chunks, segment_size):
    """How many runs there are, and the run of every position."""
    sizes = tf.shape(x, out_type=tf.int64)
    positions = tf.reduce_prod(sizes[:axis]) * tf.reduce_prod(sizes[axis + 1 :])
    position = tf.range(positions)
    if segment_size is None:
        segments, segment, size = 1, 0, positions
    else:
        rows = tf.minimum(tf.cast(rows_per_segment(segment_size), tf.int64), sizes[0])
        segments = -(-sizes[0] // tf.maximum(rows, 1))
        whole = rows * (positions // tf.maximum(sizes[0], 1))
        segment = position // tf.maximum(whole, 1)
        size = tf.minimum(whole, positions - segment * whole)
        position -= segment * whole
    used = tf.clip_by_value(size // 2, 1, chunks)
    short, longer = size // used, size % used
    in_longer = longer * (short + 1)
    run = tf.where(
        position < in_longer,
        position // (short + 1),
        longer + (position - in_longer) // tf.maximum(short, 1),
    )
    return segments * chunks, segment * chunks + run


def _by_position(x, axis):
    """`x` as `[positions, channels]`."""
    if axis != x.shape.rank - 1:
        x = tf.transpose(x, [*range(axis), *range(axis + 1, x.shape.rank), axis])
    return tf.reshape(x, [-1, full_shape(x)[-1]])


def _from_positions(values, x, axis):
    """`[positions, channels]` in the layout of `x`."""
    rank, sizes = x.shape.rank, full_shape(x)
    moved = tf.reshape(values, [*sizes[:axis], *sizes[axis + 1 :], sizes[axis]])
    return tf.transpose(moved, [*range(axis), rank - 1, *range(axis, rank - 1)])


def _added(x, places, changes):
    """A copy of `x` with changes added at places of the flattened one."""
    places = tf.reshape(places, [-1, 1])
    changes = tf.reshape(tf.cast(changes, x.dtype), [-1])
    if x.shape.num_elements() in (None, 0):  # Nothing can be added to an empty tensor.
        used = tf.where(tf.size(x) > 0, tf.size(changes), 0)
        places, changes = places[:used], changes[:used]
    changed = tf.tensor_scatter_nd_add(tf.reshape(x, [-1]), places, changes)
    changed = tf.reshape(changed, tf.shape(x))
    changed.set_shape(x.shape)  # Forward mode cannot trace `tf.ensure_shape`.
    return changed


def _counts(weights, axis):
    return _by_position(weights, axis) > 0.0


def _place(position, x, axis):
    """The place of `[runs, channels]` positions in the flattened `x`."""
    sizes = tf.shape(x, out_type=tf.int64)
    channels, inner = sizes[axis], tf.reduce_prod(sizes[axis + 1 :])
    row = position // tf.maximum(inner, 1)
    return (row * channels + tf.range(channels)) * inner + position % tf.maximum(inner, 1)
