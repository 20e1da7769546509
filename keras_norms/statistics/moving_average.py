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
            are taken at that limit. Channels where they are not finite are left out.
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
        batch_mean, batch_variance, keep = self._entering(mean, variance, batch, enabled)
        return (
            tf.where(keep, self._mixed(mean, batch_mean), mean),
            tf.where(keep, self._mixed(variance, batch_variance), variance),
        )

    def updated_stddev(self, mean, stddev, batch, enabled=None):
        """The same for an average of the standard deviation, sqrt(variance + epsilon)."""
        variance = tf.maximum(tf.square(stddev) - self.epsilon, 0.0)
        batch_mean, batch_variance, keep = self._entering(mean, variance, batch, enabled)
        batch_stddev = tf.sqrt(batch_variance + self.epsilon)
        return (
            tf.where(keep, self._mixed(mean, batch_mean), mean),
            tf.where(keep, self._mixed(stddev, batch_stddev), stddev),
        )

    def _entering(self, mean, variance, batch, enabled):
        """The batch's mean and variance as they enter, and where they do."""
        batch_mean = tf.cast(batch.mean, mean.dtype)
        batch_variance = tf.cast(self._variance(batch), variance.dtype)
        keep = batch.count > 0.0
        if enabled is not None:
            keep = tf.logical_and(keep, enabled)
        if self.skip_nonfinite:
            # One test of the sum of both: it is finite only if each of them is.
            finite = tf.math.is_finite(batch_mean + batch_variance)
            keep = tf.logical_and(keep, tf.reduce_all(finite))
        if self.max_update is not None:
            # A limit cannot hold NaN, so channels with it are left out.
            keep = tf.logical_and(keep, tf.math.is_finite(batch_mean + batch_variance))
            batch_mean, batch_variance = self._bounded(mean, variance, batch_mean, batch_variance)
        return batch_mean, batch_variance, keep

    def _mixed(self, old, batch):
        """Without NaN from a share of 0: momentum 1 never updates and 0 forgets the old value."""
        return tf.math.multiply_no_nan(old, self.momentum) + tf.math.multiply_no_nan(
            batch, 1.0 - self.momentum
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
