"""Where the channels of a tensor are, and how vectors meet activations.

The kernels see one channel axis. Layers with several channel axes bring their
input into that form with `ChannelView`: adjacent axes collapse by a reshape,
which moves no data; axes apart from each other are transposed to the end first.
"""

import numbers

import numpy as np
import tensorflow as tf


def canonical_axes(axis, rank, owner="batch_moments"):
    """Returns `axis`, an int or a sequence of ints, as sorted non-negative ints."""
    if rank is None or rank < 2:
        raise ValueError(
            f"{owner}: the input must have a known rank, 2 or more. Received: rank={rank}."
        )
    axes = tuple(axis) if isinstance(axis, (list, tuple, np.ndarray)) else (axis,)
    if not all(isinstance(a, numbers.Integral) for a in axes):
        raise ValueError(
            f"{owner}: `axis` must be an int or a list of ints. Received: axis={axis!r}."
        )
    if any(not -rank <= a < rank for a in axes):
        raise ValueError(
            f"{owner}: `axis` must lie in [-{rank}, {rank}) for an input of rank {rank}. "
            f"Received: axis={axis}."
        )
    canonical = tuple(sorted(a % rank for a in axes))
    if len(set(canonical)) != len(canonical):
        raise ValueError(
            f"{owner}: `axis` must not name an axis twice. "
            f"Received: axis={axis} for an input of rank {rank}."
        )
    if not canonical or len(canonical) == rank:
        raise ValueError(
            f"{owner}: `axis` must name at least one axis and leave at least one to reduce. "
            f"Received: axis={axis} for an input of rank {rank}."
        )
    return canonical


def other_axes(axis, rank):
    """The axes that statistics are taken over."""
    return [a for a in range(rank) if a != axis]


def full_shape(x):
    """The shape of `x` as a list of ints where known and scalar tensors elsewhere."""
    static = x.shape.as_list()
    if None not in static:
        return static
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(static)]


def rows_per_segment(segment_size):
    """The size of a segment, within the int32 that `tf.shape` counts rows in."""
    return min(segment_size, tf.int32.max)


def segment_ids(x, segment_size):
    """The segment of every row of `x`: rows 0..n-1 are segment 0, and so on."""
    return tf.range(tf.shape(x)[0]) // rows_per_segment(segment_size)


def segment_count(x, segment_size):
    """The number of segments, the last of which may be shorter than the others."""
    return -(-tf.shape(x)[0] // rows_per_segment(segment_size))


def expand_vector(vector, x, axis, segment_size=None):
    """Gives `vector`, `[channels]` or `[segments, channels]`, a shape that broadcasts to `x`."""
    trailing = [1] * (x.shape.rank - axis - 1)
    if segment_size is not None and vector.shape.rank == 2:
        rows = tf.gather(vector, segment_ids(x, segment_size))
        return tf.reshape(rows, [-1] + [1] * (axis - 1) + [vector.shape[1]] + trailing)
    return tf.reshape(vector, [-1] + trailing) if trailing else vector


class ChannelView:
    """A tensor brought into the form with one channel axis, and the way back.

    Attributes:
        axis: the channel axis of what `apply` returns.
    """

    def __init__(self, axes, rank):
        self._axes, self._rank = axes, rank
        adjacent = axes[-1] - axes[0] + 1 == len(axes)
        self._order = None if adjacent else [a for a in range(rank) if a not in axes] + list(axes)
        first = axes[0] if adjacent else rank - len(axes)
        self._channel_axes = range(first, first + len(axes))
        self.axis = first

    def apply(self, x):
        """Transposes where needed and collapses the channel axes."""
        if self._order is not None:
            x = tf.transpose(x, self._order)
        if len(self._channel_axes) > 1:
            shape = full_shape(x)
            channels = 1
            for a in self._channel_axes:
                channels *= shape[a]
            before, after = shape[: self.axis], shape[self._channel_axes[-1] + 1 :]
            x = tf.reshape(x, [*before, channels, *after])
        return x

    def restore(self, y, like):
        """Undoes `apply`: gives `y` the shape and axis order of the tensor `like`."""
        if len(self._channel_axes) > 1:
            shape = full_shape(like)
            ordered = [shape[a] for a in self._order] if self._order else shape
            y = tf.reshape(y, ordered)
        if self._order is not None:
            y = tf.transpose(y, [self._order.index(a) for a in range(self._rank)])
        return y
