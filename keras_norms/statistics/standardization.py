"""The plain formula of batch normalization, as a transform of the composite."""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.statistics.moving_statistics import MOVING_VARIANCE, MovingStatistics


class Standardization(NamedTuple):
    """`scale = gamma / stddev`, `center = mean` and `shift = beta`, of the batch.

    Attributes:
        epsilon: the layer's epsilon.
        kept: the kind of spread, which says what the `stddev` of a batch is.
        has_extras: whether mean and variance are returned, too, with a gradient to the batch.
    """

    epsilon: float
    kept: MovingStatistics = MOVING_VARIANCE
    has_extras: bool = False

    def __call__(self, statistics, gamma=None, beta=None):
        spread = self.kept.of_batch(statistics, self.epsilon)
        inverse_stddev = self.kept.inverse_stddev(spread, self.epsilon)
        scale = inverse_stddev if gamma is None else gamma * inverse_stddev
        extras = (statistics.mean, statistics.variance) if self.has_extras else ()
        return scale, statistics.mean, beta, *extras


def or_stored(formula, stored, enabled):
    """A transform, with stored statistics where those of the batch are not to be used.

    That is where `enabled`, None or a bool tensor, is false, and where nothing counts. They are
    selected by `where`, since a collective cannot be in a `tf.cond`.
    """

    def transform(statistics, **parameters):
        use_batch = statistics.count > 0.0
        if enabled is not None:
            use_batch = tf.logical_and(use_batch, enabled)
        selected = {
            name: tf.where(use_batch, getattr(statistics, name), value)
            for name, value in stored.items()
        }
        return formula(statistics._replace(**selected), **parameters)

    return transform
