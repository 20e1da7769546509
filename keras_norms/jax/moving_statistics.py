"""Moving averages of batch statistics, which inference uses: a value that goes in and comes out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from keras_norms.arguments import is_number, is_size, require


class MovingStatistics(NamedTuple):
    """What inference normalizes with.

    Attributes:
        mean: `(channels,)`.
        variance: `(channels,)`.
    """

    mean: jax.Array
    variance: jax.Array


def moving_statistics(channels, dtype=jnp.float32):
    """The `MovingStatistics` that training starts with: mean 0 and variance 1.

    Args:
        channels: how many channels there are, an int above 0.
        dtype: float32, or float64 for float64 activations. Defaults to `float32`.

    Raises:
        ValueError: if `channels` is not an int above 0, or the dtype is another one.

    Example:

    >>> keras_norms.jax.moving_statistics(2).variance
    Array([1., 1.], dtype=float32)
    """
    owner, dtype = "moving_statistics", jnp.dtype(dtype)
    require(is_size(channels), owner, "`channels` must be an int above 0", channels=channels)
    is_float = dtype in (jnp.float32, jnp.float64)
    require(is_float, owner, "`dtype` must be float32 or float64", dtype=str(dtype))
    return MovingStatistics(jnp.zeros(channels, dtype), jnp.ones(channels, dtype))


def update_moving_statistics(moving, moments, momentum=0.99):
    """The moving statistics after one more batch.

        new = momentum * old + (1 - momentum) * batch

    A batch with a count of 0 leaves them as they are. No gradient flows through them. Not for
    the average of all batches: give a momentum of `1 - 1 / step` for that.

    Args:
        moving: `MovingStatistics`.
        moments: `Moments` of the batch.
        momentum: the share of the old value kept, in [0, 1]: a number, or a scalar array, which
            is not checked. 0 keeps the last batch only, 1 never updates. Defaults to `0.99`.

    Raises:
        ValueError: if `momentum` is a number outside of [0, 1].

    Example:

    >>> moving = keras_norms.jax.moving_statistics(1)
    >>> moments = keras_norms.jax.batch_moments(jnp.array([[1.0], [3.0]]))
    >>> keras_norms.jax.update_moving_statistics(moving, moments, momentum=0.5)
    MovingStatistics(mean=Array([1.], dtype=float32), variance=Array([1.], dtype=float32))
    """
    check_momentum(momentum, "update_moving_statistics")

    def average(old, batch):
        new = momentum * old + (1.0 - momentum) * batch
        return jax.lax.stop_gradient(jnp.where(moments.count > 0, new, old).astype(old.dtype))

    return MovingStatistics(
        average(moving.mean, moments.mean), average(moving.variance, moments.variance)
    )


def check_momentum(momentum, owner):
    """Raises `ValueError` for a number that is no share."""
    is_share = isinstance(momentum, jax.Array) or is_number(momentum, 0.0, 1.0)
    require(is_share, owner, "`momentum` must be in [0, 1]", momentum=momentum)
