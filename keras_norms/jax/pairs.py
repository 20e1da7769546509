"""Means of more digits than float32 has, which at 1e6 is off by 0.03; JAX leaves float64 off."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Pair(NamedTuple):
    """The number `high + low`.

    High is an anchor: a number near by, which is passed on and never computed with. Low is the
    distance from it, as small as the values lie close together, and so are its rounding errors.
    Derivatives are those of low.
    """

    high: jax.Array
    low: jax.Array


def ratio(vector, count):
    """`vector / count`, and 0 where the count is 0."""
    return jnp.where(count > 0, vector / jnp.where(count > 0, count, 1.0), 0.0)
