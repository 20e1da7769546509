"""Batch moments as a statistic of the composite: local parts, exact merge, gradient."""

from typing import NamedTuple, Protocol

import tensorflow as tf

from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.moments import Moments


class Pullback(NamedTuple):
    """How a gradient with respect to statistics reaches the activation.

    `dx = w (b (x - center) + c) + addend`; the addend, a tensor of the shape of `x`, is for
    statistics that depend on single positions, such as extremes.
    """

    b: tf.Tensor
    c: tf.Tensor
    center: tf.Tensor
    addend: tf.Tensor | None = None


class Statistic(Protocol):
    """What `normalize_batch` needs to know of a statistic. Vectors are float64."""

    def local(self, x, *, axis, weights, segment_size):
        """The parts of this replica, a tuple of vectors. No gradient is needed here."""

    def merge(self, parts):
        """Parts of several replicas, stacked on the first axis, as the parts of all."""

    def finish(self, parts):
        """The statistics, a named tuple of vectors, from parts."""

    def pullback(self, x, local, statistics, gradients, *, axis, weights, segment_size):
        """A `Pullback`, from gradients summed over the replicas that share statistics."""


class MomentsStatistic:
    """Mean and variance. The parts are count, mean and centred sum of squares."""

    def local(self, x, *, axis, weights, segment_size):
        return kernels_in_use().moments(x, axis=axis, weights=weights, segment_size=segment_size)

    def merge(self, parts):
        """Chan's merge of any number of parts at once; a part with count 0 changes nothing."""
        counts, means, m2s = parts
        count = tf.reduce_sum(counts, 0)
        mean = tf.math.divide_no_nan(tf.reduce_sum(counts * means, 0), count)
        between = counts * tf.math.squared_difference(means, mean)
        return count, mean, tf.reduce_sum(m2s + between, 0)

    def finish(self, parts):
        count, mean, m2 = parts
        return Moments(mean, tf.math.divide_no_nan(m2, count), count)

    def pullback(self, x, local, statistics, gradients, *, axis, weights, segment_size):
        del x, local, axis, weights, segment_size
        return Pullback(
            b=tf.math.divide_no_nan(2.0 * gradients.variance, statistics.count),
            c=tf.math.divide_no_nan(gradients.mean, statistics.count),
            # Where inference was selected, b and c are 0 and a mean that is NaN must not matter.
            center=tf.where(tf.math.is_finite(statistics.mean), statistics.mean, 0.0),
        )


MOMENTS = MomentsStatistic()
