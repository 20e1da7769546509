"""What a layer keeps of the spread of its batches, and inference uses: one row a kind.

All kinds keep `moving_mean` beside it.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class MovingStatistics(NamedTuple):
    """A spread that is averaged over batches.

    Attributes:
        spread: the name of the weight.
        of_variance: `of_variance(variance, epsilon)`, the spread of a batch.
        variance: `variance(spread, epsilon)`, the variance that a spread stands for.
        inverse_stddev: `inverse_stddev(spread, epsilon)`, what x is divided by, inverted.
        of_batch: `of_batch(statistics, epsilon)`, the spread of a batch from its statistics.
        as_statistics: `as_statistics(mean, spread, epsilon)`, the statistics, by name, of a batch
            with this mean and spread.
    """

    spread: str
    of_variance: Callable
    variance: Callable
    inverse_stddev: Callable
    of_batch: Callable
    as_statistics: Callable

    @property
    def names(self):
        """The weights that hold the moving statistics, in the order of Keras."""
        return "moving_mean", self.spread


def _at_least(stddev, bound):
    """A standard deviation has epsilon in it; a loaded or initial one might be 0."""
    return tf.maximum(stddev, tf.cast(bound, stddev.dtype))


MOVING_VARIANCE = MovingStatistics(
    "moving_variance",
    of_variance=lambda variance, epsilon: variance,
    variance=lambda spread, epsilon: spread,
    inverse_stddev=lambda spread, epsilon: tf.math.rsqrt(spread + epsilon),
    of_batch=lambda statistics, epsilon: statistics.variance,
    as_statistics=lambda mean, spread, epsilon: dict(mean=mean, variance=spread),
)
MOVING_STDDEV = MovingStatistics(
    "moving_stddev",
    of_variance=lambda variance, epsilon: tf.sqrt(variance + epsilon),
    variance=lambda spread, epsilon: tf.square(spread) - epsilon,
    inverse_stddev=lambda spread, epsilon: 1.0 / _at_least(spread, epsilon**0.5),
    of_batch=lambda statistics, epsilon: tf.sqrt(statistics.variance + epsilon),
    as_statistics=lambda mean, spread, epsilon: dict(
        mean=mean, variance=tf.square(spread) - epsilon
    ),
)
# Here epsilon is added to the deviation, not to its square.
MOVING_SCALE = MovingStatistics(
    "moving_scale",
    of_variance=lambda variance, epsilon: tf.sqrt(variance) + epsilon,
    variance=lambda spread, epsilon: tf.square(tf.maximum(spread - epsilon, 0.0)),
    inverse_stddev=lambda spread, epsilon: 1.0 / _at_least(spread, epsilon),
    of_batch=lambda statistics, epsilon: statistics.deviation + epsilon,
    as_statistics=lambda mean, spread, epsilon: dict(mean=mean, deviation=spread - epsilon),
)
KINDS = MOVING_VARIANCE, MOVING_STDDEV, MOVING_SCALE
