"""Moments of a batch, and how many of its samples have a mean that is out of the ordinary."""

import math
from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.layout import full_shape
from keras_norms.statistics.effective_size import SizedMomentsStatistic


class GatedMoments(NamedTuple):
    """`SizedMoments` and the gate, float64 vectors; the last three have size 1 and no gradient.

    Attributes:
        mean, variance, count, size: those of `SizedMoments`.
        sample_mean: the mean of the means of the samples.
        score: the share of the samples whose mean lies outside of the band.
        open_share: 1 where the score is above the threshold, else 0.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor
    size: tf.Tensor
    sample_mean: tf.Tensor
    score: tf.Tensor
    open_share: tf.Tensor


class GatedMomentsStatistic(SizedMomentsStatistic):
    """The parts are those of the moments, and three numbers of the means of the samples.

    These are how many lie outside of the band, how many there are, and their sum: they add up over
    replicas, so that all see one score. Costs one more read of `x`.

    Args:
        center: float64 vector of size 1, the middle of the band.
        band: half the width of the band, as a share of the absolute value of its middle.
        threshold: the score above which the gate is open.
    """

    def __init__(self, center, band, threshold):
        self.center, self.band, self.threshold = center, band, threshold

    def local(self, x, *, axis, weights, segment_size):
        moments, kept = super().local(x, axis=axis, weights=weights, segment_size=segment_size)
        means, counts = sample_means(x, weights)
        is_outside = tf.logical_and(counts, is_outside_band(means, self.center, self.band))
        of_samples = (
            tf.cast(is_outside, tf.float64),
            tf.cast(counts, tf.float64),
            tf.where(counts, means, 0.0),
        )
        sums = (tf.reduce_sum(values, 0, keepdims=True) for values in of_samples)
        return (*moments, *sums), kept

    def finish(self, parts):
        *moments, outside, samples, total = parts
        mean, variance, count, size = super().finish(moments)
        score = tf.math.divide_no_nan(outside, samples)
        return GatedMoments(
            mean,
            variance,
            count,
            size,
            sample_mean=tf.math.divide_no_nan(total, samples),
            score=score,
            open_share=tf.cast(score > self.threshold, tf.float64),
        )


def sample_means(x, weights=None):
    """The mean of each row of `x` by weight, and whether anything of it counts: `[samples]`.

    The kernels find it, exact at any offset, if a row is a virtual batch with one channel.
    """
    rows, *others = full_shape(x)
    shape = [rows, math.prod(others), 1]
    if weights is not None:
        weights = tf.reshape(tf.broadcast_to(weights, tf.shape(x)), shape)
    counts, means, _ = kernels_in_use().moments(
        tf.reshape(x, shape), axis=2, weights=weights, segment_size=1
    )
    return tf.reshape(means, [-1]), tf.reshape(counts, [-1]) > 0.0


def is_outside_band(values, center, band):
    """Whether values lie outside `[center - band |center|, center + band |center|]`; NaN does."""
    return tf.logical_not(tf.abs(values - center) <= band * tf.abs(center))
