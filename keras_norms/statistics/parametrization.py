"""The weights that may stand for a standard deviation."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Parametrization(NamedTuple):
    """How a standard deviation is kept as a weight.

    Attributes:
        weight: the name of the weight.
        stored: `stored(stddev, epsilon)` is its value.
        inverse: `inverse(stored, epsilon)` is `1 / stddev`.
        log: `log(stored, epsilon)` is `log(stddev)`.
    """

    weight: str
    stored: Callable
    inverse: Callable
    log: Callable


PARAMETRIZATIONS = {
    "log": Parametrization(
        "log_stddev",
        lambda stddev, epsilon: tf.math.log(stddev),
        lambda stored, epsilon: tf.exp(-stored),
        lambda stored, epsilon: stored,
    ),
    "abs": Parametrization(
        "stddev",
        lambda stddev, epsilon: tf.maximum(stddev - epsilon, 0.0),
        lambda stored, epsilon: 1.0 / (tf.abs(stored) + epsilon),
        lambda stored, epsilon: tf.math.log(tf.abs(stored) + epsilon),
    ),
    "inv": Parametrization(
        "inverse_stddev",
        lambda stddev, epsilon: 1.0 / stddev,
        lambda stored, epsilon: stored,
        lambda stored, epsilon: -tf.math.log(tf.abs(stored) + epsilon),
    ),
}
