"""Batch normalization as a pure function."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from keras_norms.arguments import is_bool, require
from keras_norms.jax import kernels, shards
from keras_norms.jax.arrays import as_floats, as_number, received
from keras_norms.jax.layout import Layout
from keras_norms.jax.moments import finished
from keras_norms.jax.moving_statistics import (
    MovingStatistics,
    checked_fields,
    checked_momentum,
    moving_statistics,
    update_moving_statistics,
)
from keras_norms.jax.pairs import Pair, ratio

_OWNER = "batch_norm"
_SMALLEST = float(np.finfo(np.float32).tiny)  # Numbers below it act as 0.


def batch_norm(
    x,
    gamma=None,
    beta=None,
    *,
    moving=None,
    training,
    axis=-1,
    mask=None,
    momentum=0.99,
    epsilon=1e-3,
    axis_name=None,
):
    """Normalizes each channel by mean and variance of the batch; exact at any offset.

    Training, per channel, over all other axes, with weights `w` from the mask (1 without one):

        count    = sum(w)
        mean     = sum(w * x) / count
        variance = sum(w * (x - mean)^2) / count
        y        = gamma * (x - mean) / sqrt(variance + epsilon) + beta
        moving   = momentum * moving + (1 - momentum) * (mean, variance)

    Inference:

        y        = gamma * (x - moving.mean) / sqrt(moving.variance + epsilon) + beta

    Use it in models of plain JAX, and of libraries that call functions, under `jit`, `grad` of any
    order, `vmap`, `checkpoint` and `shard_map`. Not for batches of one or two values per channel:
    their statistics are noise. Not in forward mode (`jvp`, `jacfwd`): gradients are reverse mode.

    A position of weight 0 is normalized like the others, but counts in no statistic. If it holds
    NaN or Inf it is read as the mean, so that `y = beta` there and no NaN spreads. A batch in which
    nothing counts is normalized as in inference and leaves the moving statistics alone; without
    moving statistics, by mean 0 and variance 1.

    Args:
        x: array `(batch, ..., channels, ...)` of float16, bfloat16, float32 or float64.
        gamma: scale, a float array `(channels,)`. Defaults to `None`, 1.
        beta: shift, likewise. Defaults to `None`, 0.
        moving: `MovingStatistics` of float32 or float64, constants: no gradient flows to them.
            Inference needs them; training without them returns none. Defaults to `None`.
        training: a Python bool.
        axis: the channel axis. Defaults to `-1`.
        mask: bools, or numbers as weights (negative and NaN count as 0), of the shape of the
            leading non-channel axes of `x`, or of the rank of `x` with 1 on the channel axis. They
            are constants: no gradient flows to them. `sum(w)` and `sum(w * (x - mean)^2)` must be
            far below 3.4e38, where float32 ends. Defaults to `None`: all positions count.
        momentum: the share of the old moving value kept, a number in [0, 1] or a float array of
            shape (), whose value is not checked if it is traced. Defaults to `0.99`.
        epsilon: added to the variance, a number that is not traced: 0, or at least 1.2e-38, the
            smallest normal number of float32. With 0 a constant channel gives NaN. Defaults to
            `1e-3`.
        axis_name: the axis of `jax.shard_map`, `jax.vmap` or `jax.pmap`, or a tuple of distinct
            ones, over which shards share statistics as one batch. Defaults to `None`: this array is
            the batch.

    Returns:
        `y` like `x`, and the `MovingStatistics` after this batch, through which no gradient of
        this batch flows.

    Raises:
        ValueError: if a dtype, a shape or a value is not as above.

    Example:

    >>> moving = keras_norms.jax.moving_statistics(1)
    >>> x = jnp.array([[1.0], [3.0]])
    >>> y, moving = keras_norms.jax.batch_norm(x, moving=moving, training=True, epsilon=0.0)
    >>> y
    Array([[-1.],
           [ 1.]], dtype=float32)
    >>> y, moving = keras_norms.jax.batch_norm(x, moving=moving, training=False)
    """
    x = as_floats("x", x, _OWNER)
    layout = Layout(x, axis, _OWNER)
    require(is_bool(training), _OWNER, "`training` must be a Python bool", training=training)
    epsilon = _checked_epsilon(epsilon)
    momentum = checked_momentum(momentum, _OWNER)
    shards.check_axis_name(axis_name, _OWNER)
    gamma, beta = layout.vector("gamma", gamma, 1.0), layout.vector("beta", beta, 0.0)
    weights = layout.weights(mask)
    require(
        moving is None or isinstance(moving, MovingStatistics),
        _OWNER,
        "`moving` must be MovingStatistics(mean, variance) or None",
        **received("moving", moving),
    )
    require(
        training or moving is not None,
        _OWNER,
        "inference needs `moving`, from training or from `moving_statistics(channels)`",
        moving=moving,
    )
    if moving is None:
        stored = moving_statistics(layout.channels)
    else:
        stored = moving = checked_fields(moving, _OWNER, (layout.channels,))
    stored = jax.lax.stop_gradient(jax.tree.map(layout.row, stored))
    if not training:
        y = kernels.blend(
            v=layout.apply(x),
            b=gamma * jax.lax.rsqrt(stored.variance + epsilon),
            c=beta,
            center=Pair(stored.mean, jnp.zeros_like(stored.mean)),
            weights=weights,
        )
        return layout.restore(y), moving
    operands = _Normalized(layout.apply(x), gamma, beta, weights, stored)
    y, parts = _normalize(_Options(epsilon, axis_name), shards.of_the_same_shards(operands))
    if moving is not None:
        moving = update_moving_statistics(moving, finished(parts), momentum)
    return layout.restore(y), moving


def _checked_epsilon(epsilon):
    number = as_number(epsilon)
    require(
        number is not None and (number == 0 or _SMALLEST <= number < math.inf),
        _OWNER,
        f"`epsilon` must be a finite number that is not traced, 0 or at least {_SMALLEST:.2g}",
        **received("epsilon", epsilon),
    )
    return number


class _Options(NamedTuple):
    epsilon: float
    axis_name: str | tuple[str, ...] | None


class _Normalized(NamedTuple):
    """What training normalizes, in the form of the kernels, and the statistics of empty batches."""

    x: jax.Array
    gamma: jax.Array
    beta: jax.Array
    weights: jax.Array | None
    stored: MovingStatistics | None  # None of gradients, which it has not.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize(options, operands):
    """y, and the `Parts` of the batch.

    With a gradient of its own, since that of moments and that of blend would be two passes that
    each write an activation. It is made of the kernels, so it has gradients too.
    """
    (y, parts), _ = _normalize_forward(options, operands)
    return y, parts


def _normalize_forward(options, operands):
    x, gamma, beta, weights, stored = operands
    parts = shards.merged(kernels.moments(x, weights), options.axis_name)
    counts = parts.count > 0
    variance = jnp.where(counts, ratio(parts.m2, parts.count), stored.variance)
    center = Pair(jnp.where(counts, parts.mean.high, stored.mean), parts.mean.low)
    inverse_stddev = jax.lax.rsqrt(variance + options.epsilon)
    y = kernels.blend(v=x, b=gamma * inverse_stddev, c=beta, center=center, weights=weights)
    return (y, parts), (x, gamma, weights, parts.count, center, inverse_stddev)


def _normalize_backward(options, kept, gradients):
    """The gradient of y alone: the parts only move averages, which have none."""
    x, gamma, weights, count, center, inverse_stddev = kept
    dy: jax.Array = gradients[0]
    scale = gamma * inverse_stddev
    sum_dy, sum_dy_x = kernels.sums(u=dy, v=x, center=center, weights=weights)
    of_mean = -scale * sum_dy
    of_variance = -0.5 * scale * jnp.square(inverse_stddev) * sum_dy_x
    of_mean, of_variance = shards.total((of_mean, of_variance), options.axis_name)
    of_x = kernels.blend(
        u=dy,
        a=scale,
        v=x,
        b=ratio(2.0 * of_variance, count),
        c=ratio(of_mean, count),
        center=center,
        weights=weights,
        weighted=weights is not None,
    )
    return (_Normalized(of_x, inverse_stddev * sum_dy_x, sum_dy, None, None),)


_normalize.defvjp(_normalize_forward, _normalize_backward)
