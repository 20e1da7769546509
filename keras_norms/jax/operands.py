"""What the kernels are given and give, for all segments of rows that have statistics of their own.

Activations are (segments, rows, channels, inner), vectors (segments, channels), weights
(segments, rows, 1, inner). What `vmap` maps over becomes segments, so all arrays have these first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from keras_norms.jax.pairs import Pair


class Operands(NamedTuple):
    """The operands of `sums` and `blend`, in the order of the compiled kernels.

    Attributes:
        u, v: activations of the same shape and dtype.
        a, b, c: vectors.
        center: a pair of vectors.
        weights: constants; where they are 0, a `v` that is not finite is read as the center.
    """

    u: jax.Array | None = None
    v: jax.Array | None = None
    a: jax.Array | None = None
    b: jax.Array | None = None
    c: jax.Array | None = None
    center: Pair | None = None
    weights: jax.Array | None = None


class Parts(NamedTuple):
    """What `moments` returns.

    Attributes:
        count: the sum of the weights, (segments, 1).
        mean: a pair of vectors.
        m2: the centred sum of squares, a vector.
    """

    count: jax.Array
    mean: Pair
    m2: jax.Array


def vector_dtype(x):
    """The dtype of the vectors beside an activation, in which sums are also returned."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32
