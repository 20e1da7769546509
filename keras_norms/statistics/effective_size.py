"""Moments with the effective size of the batch, for where a variance is corrected for it."""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops.totals import count_of
from keras_norms.statistics.moments import MomentsStatistic


class SizedMoments(NamedTuple):
    """`Moments` and the effective size, float64 vectors.

    Attributes:
        mean, variance, count: those of `Moments`.
        size: `sum(w)^2 / sum(w^2)`, how many values of equal weight tell as much of the variance:
            the count where all weights are 0 or 1. It does not depend on the scale of the weights.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor
    size: tf.Tensor


class SizedMomentsStatistic(MomentsStatistic):
    """The parts are those of the moments and `sum(w^2)`, which is the count without weights."""

    part_names = (*MomentsStatistic.part_names, "squared_weights")

    def local(self, x, *, axis, weights, segment_size):
        layout = dict(axis=axis, segment_size=segment_size)
        parts, kept = super().local(x, weights=weights, **layout)
        if weights is None:
            return (*parts, parts[0]), kept
        # In float64, where the square of no float32 weight is 0.
        squares = tf.square(tf.cast(weights, tf.float64))
        return (*parts, count_of(x, weights=squares, **layout)), kept

    def finish(self, parts):
        *moments, squares = parts
        mean, variance, count = super().finish(moments)
        size = tf.math.divide_no_nan(tf.square(count), squares)
        return SizedMoments(mean, variance, count, size)

    def parts_of(self, statistics):
        squares = tf.math.divide_no_nan(tf.square(statistics.count), statistics.size)
        return *super().parts_of(statistics), squares


SIZED_MOMENTS = SizedMomentsStatistic()
