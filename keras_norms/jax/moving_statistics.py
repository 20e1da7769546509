"""Moving averages of batch statistics, which inference uses: a value that goes in and comes out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from keras_norms.arguments import is_int, require
from keras_norms.jax.arrays import as_floats, as_number, as_numbers, received
from keras_norms.jax.moments import Moments

_DTYPES = ("float32", "float64")
_LIMIT = 2**31


class MovingStatistics(NamedTuple):
    """What inference normalizes with.

    Attributes:
        mean: `(channels,)`, float32 or float64.
        variance: likewise.
    """

    mean: jax.Array
    variance: jax.Array


def moving_statistics(channels, dtype=jnp.float32):
    """The `MovingStatistics` that training starts with: mean 0 and variance 1.

    Args:
        channels: how many channels there are, an int above 0 and below 2^31.
        dtype: float32, or float64 for float64 activations, where JAX has 64 bits on. Defaults to
            `float32`.

    Raises:
        ValueError: if `channels` or `dtype` is not as above.

    Example:

    >>> keras_norms.jax.moving_statistics(2).variance
    Array([1., 1.], dtype=float32)
    """
    owner = "moving_statistics"
    require(
        is_int(channels) and 0 < channels < _LIMIT,
        owner,
        "`channels` must be an int above 0 and below 2^31",
        channels=channels,
    )
    name = _name(dtype)
    require(name in _DTYPES, owner, "`dtype` must be float32 or float64", dtype=name)
    has_it = name == "float32" or jax.config.jax_enable_x64
    require(has_it, owner, "`dtype` must be float32 where JAX has 64 bits off", dtype=name)
    return MovingStatistics(jnp.zeros(channels, name), jnp.ones(channels, name))


def update_moving_statistics(moving, moments, momentum=0.99):
    """The moving statistics after one more batch.

        new = momentum * old + (1 - momentum) * batch

    A batch with a count of 0 leaves them as they are. No gradient flows through them. Not for
    the average of all batches: give a momentum of `1 - 1 / step` for that.

    Args:
        moving: `MovingStatistics` of float32 or float64.
        moments: `Moments` of the batch, float arrays of the same shape and a number as the count.
        momentum: the share of the old value kept, a number in [0, 1] or a float array of shape
            (), whose value is not checked if it is traced. 0 keeps the last batch only, 1 never
            updates. Defaults to `0.99`.

    Raises:
        ValueError: if a type, a dtype, a shape or a value is not as above.

    Example:

    >>> moving = keras_norms.jax.moving_statistics(1)
    >>> moments = keras_norms.jax.batch_moments(jnp.array([[1.0], [3.0]]))
    >>> keras_norms.jax.update_moving_statistics(moving, moments, momentum=0.5)
    MovingStatistics(mean=Array([1.], dtype=float32), variance=Array([1.], dtype=float32))
    """
    owner = "update_moving_statistics"
    for name, value, kind in (("moving", moving, MovingStatistics), ("moments", moments, Moments)):
        rule = f"`{name}` must be {kind.__name__}"
        require(isinstance(value, kind), owner, rule, **received(name, value))
    moving = checked_fields(moving, owner)
    mean = as_floats("moments.mean", moments.mean, owner, shape=moving.mean.shape)
    variance = as_floats("moments.variance", moments.variance, owner, shape=moving.mean.shape)
    count = as_numbers("moments.count", moments.count, owner)
    require(count.shape == (), owner, "`moments.count` must be a scalar", shape=count.shape)
    momentum = checked_momentum(momentum, owner)

    def average(old, batch):
        new = momentum * old + (1.0 - momentum) * batch
        return jax.lax.stop_gradient(jnp.where(count > 0, new, old).astype(old.dtype))

    return MovingStatistics(average(moving.mean, mean), average(moving.variance, variance))


def checked_fields(moving, owner, shape=None):
    """The same with arrays, both of a shape, or of that of the mean."""
    mean = as_floats("moving.mean", moving.mean, owner, dtypes=_DTYPES, shape=shape)
    variance = as_floats(
        "moving.variance", moving.variance, owner, dtypes=_DTYPES, shape=mean.shape
    )
    return MovingStatistics(mean, variance)


def checked_momentum(momentum, owner):
    """A float, or an array whose value is not known yet."""
    if isinstance(momentum, jax.core.Tracer):
        return as_floats("momentum", momentum, owner, shape=())
    number = as_number(momentum)
    require(
        number is not None and 0.0 <= number <= 1.0,
        owner,
        "`momentum` must be a number in [0, 1] or a float array of shape ()",
        **received("momentum", momentum),
    )
    return number


def _name(dtype):
    """The name of a dtype, or what was given for one."""
    try:
        return str(dtype if dtype is None else jnp.dtype(dtype))
    except (TypeError, ValueError):
        return str(dtype)
