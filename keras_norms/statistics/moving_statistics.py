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
        inverse_stddev: `inverse_stddev(spread, epsilon)`, what inference divides by, inverted.
    """

    spread: str
    of_variance: Callable
    variance: Callable
    inverse_stddev: Callable

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
)
MOVING_STDDEV = MovingStatistics(
    "moving_stddev",
    of_variance=lambda variance, epsilon: tf.sqrt(variance + epsilon),
    variance=lambda spread, epsilon: tf.square(spread) - epsilon,
    inverse_stddev=lambda spread, epsilon: 1.0 / _at_least(spread, epsilon**0.5),
)
# Here epsilon is added to the deviation, not to its square.
MOVING_SCALE = MovingStatistics(
    "moving_scale",
    of_variance=lambda variance, epsilon: tf.sqrt(variance) + epsilon,
    variance=lambda spread, epsilon: tf.square(tf.maximum(spread - epsilon, 0.0)),
    inverse_stddev=lambda spread, epsilon: 1.0 / _at_least(spread, epsilon),
)
KINDS = MOVING_VARIANCE, MOVING_STDDEV, MOVING_SCALE
