"""The public face of batch moments."""

from typing import NamedTuple

import jax

from keras_norms.jax import kernels, shards
from keras_norms.jax.arrays import as_floats
from keras_norms.jax.layout import Layout
from keras_norms.jax.pairs import ratio


class Moments(NamedTuple):
    """Statistics of a batch, float32 (float64 of float64 inputs).

    Attributes:
        mean: `sum(w x) / count`, `(channels,)`, rounded: at 1e6 float32 is off by up to 0.03.
        variance: `sum(w (x - mean)^2) / count`, the population variance, `(channels,)`.
        count: `sum(w)`, the number of values behind each channel's mean, a scalar.
    """

    mean: jax.Array
    variance: jax.Array
    count: jax.Array


def batch_moments(x, *, axis=-1, mask=None, axis_name=None):
    """Mean and variance per channel, exact at any offset and differentiable to any order.

        mean     = sum(w * x) / count
        variance = sum(w * (x - mean)^2) / count,    count = sum(w)

    Use it for statistics of your own making; `batch_norm` computes them itself. Not for ranges or
    higher moments.

    Args:
        x: array `(batch, ..., channels, ...)` of float16, bfloat16, float32 or float64.
        axis: the channel axis. Defaults to `-1`.
        mask: bools, or numbers as weights (negative and NaN count as 0), of the shape of the
            leading non-channel axes of `x`, or of the rank of `x` with 1 on the channel axis. They
            are constants: no gradient flows to them. `sum(w)` and `sum(w * (x - mean)^2)` must be
            far below 3.4e38, where float32 ends. Defaults to `None`: all positions count.
        axis_name: the axis of `jax.shard_map`, `jax.vmap` or `jax.pmap`, or a tuple of them, over
            which shards are one batch. Defaults to `None`: this array is the batch.

    Returns:
        `Moments`. Where the count is 0, mean and variance are 0.

    Raises:
        ValueError: if a dtype, a shape or a value is not as above.

    Example:

    >>> moments = keras_norms.jax.batch_moments(
    ...     jnp.array([[1.0], [3.0], [8.0]]), mask=jnp.array([True, True, False])
    ... )
    >>> moments.mean, moments.variance, moments.count
    (Array([2.], dtype=float32), Array([1.], dtype=float32), Array(2., dtype=float32))
    """
    owner = "batch_moments"
    x = as_floats("x", x, owner)
    layout = Layout(x, axis, owner)
    shards.check_axis_name(axis_name, owner)
    parts = kernels.moments(layout.apply(x), layout.weights(mask))
    return finished(shards.merged(parts, axis_name))


def finished(parts):
    """`Moments` from the `Parts` of one segment."""
    mean = parts.mean.high + parts.mean.low
    return Moments(mean[0], ratio(parts.m2, parts.count)[0], parts.count[0, 0])
