"""What enters the moving statistics, and how.

    new = momentum * old + (1 - momentum) * batch

A batch with a count of 0 leaves them as they are.
"""

from typing import NamedTuple

import tensorflow as tf


class MovingAverage(NamedTuple):
    """The rule of a layer.

    Attributes:
        momentum: the share of the old value kept, in [0, 1].
        epsilon: the layer's epsilon.
        unbiased: whether the batch variance is multiplied by count / (count - 1) where
            the count is above 1.
        skip_nonfinite: whether a batch with a mean or variance that is not finite, in any
            channel, is left out.
        max_update: None, or the number of stored standard deviations that the mean and
            the standard deviation of a batch may differ from the stored ones; beyond, they
            are taken at that limit.
    """

    momentum: float
    epsilon: float
    unbiased: bool = False
    skip_nonfinite: bool = False
    max_update: float | None = None

    def updated(self, mean, variance, batch, enabled=None):
        """Returns the new mean and variance.

        Args:
            mean: the stored mean, `[channels]`.
            variance: the stored variance.
            batch: `Moments` of the batch.
            enabled: None, or a bool tensor: where it is false nothing is updated.
        """
        batch_mean = tf.cast(batch.mean, mean.dtype)
        batch_variance = tf.cast(self._variance(batch), variance.dtype)
        keep = batch.count > 0.0
        if enabled is not None:
            keep = tf.logical_and(keep, enabled)
        if self.skip_nonfinite:
            # One test of the sum of both: it is finite only if each of them is.
            finite = tf.reduce_all(tf.math.is_finite(batch_mean + batch_variance))
            keep = tf.logical_and(keep, finite)
            batch_mean = tf.where(finite, batch_mean, mean)
            batch_variance = tf.where(finite, batch_variance, variance)
        if self.max_update is not None:
            batch_mean, batch_variance = self._bounded(mean, variance, batch_mean, batch_variance)
        old_share = tf.where(keep, tf.constant(self.momentum, mean.dtype), 1.0)
        new_share = tf.where(keep, tf.constant(1.0 - self.momentum, mean.dtype), 0.0)
        return (
            old_share * mean + new_share * batch_mean,
            old_share * variance + new_share * batch_variance,
        )

    def _variance(self, batch):
        if not self.unbiased:
            return batch.variance
        n = batch.count
        return batch.variance * tf.where(n > 1.0, n / tf.maximum(n - 1.0, 1e-300), 1.0)

    def _bounded(self, mean, variance, batch_mean, batch_variance):
        stddev = tf.sqrt(variance + self.epsilon)
        limit = self.max_update * stddev
        batch_stddev = tf.sqrt(batch_variance + self.epsilon)
        bounded = tf.clip_by_value(batch_stddev, tf.maximum(stddev - limit, 0.0), stddev + limit)
        # Within the limits the variance is taken as it is, not as the square of its root.
        inside = tf.equal(bounded, batch_stddev)
        return (
            tf.clip_by_value(batch_mean, mean - limit, mean + limit),
            tf.where(inside, batch_variance, tf.maximum(tf.square(bounded) - self.epsilon, 0.0)),
        )
