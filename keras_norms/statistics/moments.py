"""Batch moments as a statistic of the composite: local parts, exact merge, gradient."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import tensorflow as tf

from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.moments import Moments


def sum_of_rows(vectors):
    """The sum of each of the stacked vectors."""
    return [tf.reduce_sum(vector, 0) for vector in vectors]


class Pullback(NamedTuple):
    """How a gradient with respect to statistics reaches the activation.

    `dx = w (b (x - center) + c)`, without `b` only `w c`. Statistics that depend on single
    positions, such as extremes, add their part there: `dx = at_positions(dx)`.
    """

    c: tf.Tensor
    b: tf.Tensor | None = None
    center: tf.Tensor | None = None
    at_positions: Callable = lambda dx: dx


class Statistic(Protocol):
    """What `normalize_batch` needs to know of a statistic. Vectors are float64.

    Attributes:
        part_names: the names of the parts, the count first. With `parts_of`, they are for
            statistics that are accumulated over batches; others do without both.
    """

    part_names: tuple[str, ...]

    def local(self, x, *, axis, weights, segment_size):
        """The parts of this replica, a tuple of vectors, and what only the pullback needs.

        No gradient is needed here.
        """

    def merge(self, parts, total=sum_of_rows):
        """The parts of all replicas.

        They are made from sums, so they can be had from parts that are stacked on the first axis,
        or from a replica's own parts where `total` returns sums over the replicas. Parts that are
        only added up may follow those of the statistic.
        """

    def finish(self, parts):
        """The statistics, a named tuple of vectors, from parts."""

    def parts_of(self, statistics):
        """The parts from which `finish` makes these statistics."""

    def pullback(self, kept, statistics, gradients):
        """A `Pullback`, from what `local` kept and gradients summed over the replicas."""


class MomentsStatistic:
    """Mean and variance. The parts are count, mean and centred sum of squares."""

    part_names: tuple[str, ...] = ("count", "mean", "m2")

    def local(self, x, *, axis, weights, segment_size):
        layout = dict(axis=axis, weights=weights, segment_size=segment_size)
        return kernels_in_use().moments(x, **layout), None

    def merge(self, parts, total=sum_of_rows):
        """Chan's merge of any number of parts at once; a part with count 0 changes nothing."""
        counts, means, m2s, *others = parts
        count, weighted_mean, *others = total([counts, counts * means, *others])
        mean = tf.math.divide_no_nan(weighted_mean, count)
        (m2,) = total([m2s + counts * tf.math.squared_difference(means, mean)])
        return count, mean, m2, *others

    def finish(self, parts):
        count, mean, m2 = parts
        return Moments(mean, tf.math.divide_no_nan(m2, count), count)

    def parts_of(self, statistics):
        return statistics.count, statistics.mean, statistics.count * statistics.variance

    def pullback(self, kept, statistics, gradients):
        del kept
        return Pullback(
            b=tf.math.divide_no_nan(2.0 * gradients.variance, statistics.count),
            c=tf.math.divide_no_nan(gradients.mean, statistics.count),
            # Where inference was selected, b and c are 0 and a mean that is NaN must not matter.
            center=tf.where(tf.math.is_finite(statistics.mean), statistics.mean, 0.0),
        )


MOMENTS = MomentsStatistic()
