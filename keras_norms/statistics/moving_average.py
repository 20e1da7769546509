"""What enters the moving statistics, and how.

    new = momentum * old + (1 - momentum) * batch

A batch with a count of 0 leaves them as they are.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.statistics.left_out import name_once
from keras_norms.statistics.moving_statistics import MOVING_VARIANCE, MovingStatistics

# The most that is stored, as a share of what the dtype can hold: below 1, since a sum of
# shares of the largest number may be rounded up to infinity.
LARGEST = 0.99


class MovingAverage(NamedTuple):
    """The rule of a layer.

    Attributes:
        momentum: the share of the old value kept, in [0, 1]; a number or a scalar tensor.
        epsilon: the layer's epsilon.
        kept: the spread that is averaged.
        unbiased: whether the batch variance is multiplied by n / (n - 1), with the effective
            size n of the batch, where n is above 1. The batch then is `SizedMoments`.
        skip_nonfinite: whether a batch with a mean or variance that is not finite, in any
            channel, is left out.
        max_update: None, or the number of stored standard deviations that the mean and
            the standard deviation of a batch may differ from the stored ones; beyond, they
            are taken at that limit. Channels where they are not finite are left out.
        owner: the layer that is named once when a batch is left out.
    """

    momentum: float | tf.Tensor
    epsilon: float
    kept: MovingStatistics = MOVING_VARIANCE
    unbiased: bool = False
    skip_nonfinite: bool = False
    max_update: float | None = None
    owner: str = "a layer"

    @property
    def is_plain(self):
        """Whether nothing but the momentum says what enters."""
        has_rules = self.unbiased or self.skip_nonfinite or self.max_update is not None
        return self.kept is MOVING_VARIANCE and not has_rules

    def share(self, dtype):
        """The share of the batch, a scalar."""
        return _as_scalar(1.0 - self.momentum, dtype)

    def updated(self, mean, spread, batch, enabled=None):
        """Returns the new mean and spread.

        Args:
            mean: the stored mean, `[channels]`.
            spread: the stored spread, of the kind of `kept`.
            batch: `Moments` of the batch, `[channels]`, or `[segments, channels]` of virtual
                batches, which are averaged by count.
            enabled: None, or a bool tensor: where it is false nothing is updated.
        """
        count, batch_mean = batch.count, batch.mean
        batch_spread = self.kept.of_variance(self._variance(batch), self.epsilon)
        if batch_mean.shape.rank == 2:
            batch_mean, batch_spread = (
                _average(value, count) for value in (batch_mean, batch_spread)
            )
            count = tf.reduce_sum(count, 0)
        keep = count > 0.0
        if enabled is not None:
            keep = tf.logical_and(keep, enabled)
        if self.skip_nonfinite:
            is_finite = _is_finite(batch)
            name_once(tf.logical_not(is_finite), self.owner)
            keep = tf.logical_and(keep, is_finite)
        if self.max_update is not None:
            # A limit cannot hold NaN, so channels with it are left out.
            keep = tf.logical_and(keep, tf.math.is_finite(batch_mean + batch_spread))
            old_mean, old_spread = (tf.cast(value, tf.float64) for value in (mean, spread))
            batch_mean, batch_spread = self._bounded(old_mean, old_spread, batch_mean, batch_spread)
        # A variance may be beyond the stored dtype, where it would be infinite for good.
        batch_spread = tf.minimum(batch_spread, LARGEST * float(spread.dtype.max))
        batch_mean = tf.cast(batch_mean, mean.dtype)
        batch_spread = tf.cast(batch_spread, spread.dtype)
        # Where nothing is to change the batch has a share of 0, which no NaN passes.
        share = tf.where(keep, self.share(mean.dtype), 0.0)
        kept = 1.0 - share
        return tuple(
            tf.math.multiply_no_nan(old, kept) + tf.math.multiply_no_nan(batch, share)
            for old, batch in ((mean, batch_mean), (spread, batch_spread))
        )

    def takes(self, batch):
        """Whether anything of a batch is averaged, a bool scalar."""
        takes = tf.reduce_any(batch.count > 0.0)
        return tf.logical_and(takes, _is_finite(batch)) if self.skip_nonfinite else takes

    def _variance(self, batch):
        if not self.unbiased:
            return batch.variance
        above_one = batch.size - 1.0
        # One value with a weight that is rounded has a size of 1 but for rounding: no variance.
        corrects = above_one > 1e-9
        factor = tf.where(corrects, batch.size / tf.where(corrects, above_one, 1.0), 1.0)
        return batch.variance * factor

    def _bounded(self, mean, spread, batch_mean, batch_spread):
        """The batch's mean and spread, within `max_update` stored standard deviations."""
        stddev, batch_stddev = (
            tf.sqrt(tf.maximum(self.kept.variance(value, self.epsilon), 0.0) + self.epsilon)
            for value in (spread, batch_spread)
        )
        limit = self.max_update * stddev
        bounded = tf.clip_by_value(batch_stddev, tf.maximum(stddev - limit, 0.0), stddev + limit)
        variance = tf.maximum(tf.square(bounded) - self.epsilon, 0.0)
        # Within the limits the spread is taken as it is, not as the square of its root.
        inside = tf.equal(bounded, batch_stddev)
        return (
            tf.clip_by_value(batch_mean, mean - limit, mean + limit),
            tf.where(inside, batch_spread, self.kept.of_variance(variance, self.epsilon)),
        )


class MovingUpdate(NamedTuple):
    """An update that may be computed with the statistics of the batch: a rule, and what moves."""

    rule: MovingAverage
    mean: tf.Tensor
    spread: tf.Tensor


def _is_finite(batch):
    """Whether mean and variance are finite in all channels; their sum is only if both are."""
    return tf.reduce_all(tf.math.is_finite(batch.mean + batch.variance))


def _as_scalar(value, dtype):
    return tf.cast(value, dtype) if tf.is_tensor(value) else tf.constant(value, dtype)


def _average(values, counts):
    """The average over segments, by count."""
    return tf.math.divide_no_nan(tf.reduce_sum(counts * values, 0), tf.reduce_sum(counts, 0))
