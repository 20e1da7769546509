"""The three kernels that batch norm is made of, differentiable in reverse mode to any order.

    moments(x; w)                    count = sum w, mean, m2 = sum w (x - mean)^2
    sums(u, v, center; w)            sum w u, sum w u (v - center)
    blend(u, v, a, b, c, center; w)  a u + w (b (v - center) + c)

Each is one pass over the activations that it names, and their gradients are made of the same three
again. Arguments are the fields of `Operands`. With `weighted=False` the weights only tell where a
value is invalid.
"""

import functools

import jax
import jax.numpy as jnp

from keras_norms.jax.choice import kernels_in_use
from keras_norms.jax.mapping import over_segments
from keras_norms.jax.operands import Operands
from keras_norms.jax.pairs import Pair, ratio
from keras_norms.jax.shards import of_the_same_shards


def moments(x, weights=None):
    """The `Parts` of an activation."""
    return _moments(*of_the_same_shards((x, weights)))


def sums(*, weighted=False, **named):
    """A tuple: `sum w u` and, where `v` is given, `sum w u (v - center)`.

    Without `u`, `u` is `v - center`.
    """
    return _sums(weighted, of_the_same_shards(Operands(**named)))


def blend(*, weighted=False, **named):
    """`a u + w (b (v - center) + c)` in the dtype of the activations; each term is optional."""
    return _blend(weighted, of_the_same_shards(Operands(**named)))


@jax.custom_vjp
def _moments(x, weights):
    return over_segments(kernels_in_use().moments)(x, weights)


def _moments_forward(x, weights):
    parts = _moments(x, weights)
    return parts, (x, weights, parts)


def _moments_backward(kept, gradients):
    x, weights, parts = kept
    of_x = blend(
        v=x,
        b=2.0 * gradients.m2,
        c=ratio(gradients.mean.low, parts.count),
        center=parts.mean,
        weights=weights,
        weighted=weights is not None,
    )
    return of_x, None


_moments.defvjp(_moments_forward, _moments_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(weighted, operands):
    return over_segments(kernels_in_use().sums, weighted=weighted)(operands)


def _sums_forward(weighted, operands):
    return _sums(weighted, operands), operands


def _sums_backward(weighted, operands, gradients):
    u, v, center, weights = operands.u, operands.v, operands.center, operands.weights
    layout = dict(weights=weights, weighted=weighted)
    # Weights that only tell where `v` is invalid say nothing of `u`.
    weighing = layout if weighted else {}
    of_sum, of_product = gradients[0], gradients[-1]
    if v is None:
        return (Operands(u=_constant_like(u, of_sum, **weighing)),)
    own = 1.0 if u is not None else 2.0  # Without u, v - center is there squared.
    of_own = blend(v=v, b=own * of_product, c=of_sum, center=center, **layout)
    if u is None:
        of_center = _as_pair(center, lambda: -sums(u=of_own)[0])
        return (Operands(v=of_own, center=of_center),)
    of_v = blend(v=u, b=of_product, **weighing)
    of_center = _as_pair(center, lambda: -of_product * sums(u=u, **weighing)[0])
    return (Operands(u=of_own, v=of_v, center=of_center),)


_sums.defvjp(_sums_forward, _sums_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blend(weighted, operands):
    return over_segments(kernels_in_use().blend, weighted=weighted)(operands)


def _blend_forward(weighted, operands):
    return _blend(weighted, operands), operands


def _blend_backward(weighted, operands, dy):
    u, v, a, b, c, center, weights = operands
    layout = dict(weights=weights, weighted=weighted)
    weighing = layout if weighted else {}
    of_u = of_v = of_a = of_b = of_center = None
    if u is not None:
        of_u = dy if a is None else blend(v=dy, b=a)
        of_a = None if a is None else sums(u=dy, v=u)[1]
    if v is None:
        of_c = None if c is None else sums(u=dy, **weighing)[0]
        return (Operands(u=of_u, a=of_a, c=of_c),)
    of_v = blend(v=dy, b=b, **weighing)
    if b is not None:
        total, of_b = sums(u=dy, v=v, center=center, **layout)
        of_center = _as_pair(center, lambda: -b * total)
    return (Operands(of_u, of_v, of_a, of_b, None if c is None else total, of_center, None),)


_blend.defvjp(_blend_forward, _blend_backward)


def _constant_like(activation, vector, **layout):
    """`w` times a value of its own for each channel."""
    return blend(v=activation, b=jnp.zeros_like(vector), c=vector, **layout)


def _as_pair(center, of_low):
    """The gradient of a center, which is that of its low part; None without a center."""
    return None if center is None else Pair(jnp.zeros_like(center.high), of_low())
