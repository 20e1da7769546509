"""The kernels in plain JAX: no gradients here, `kernels.py` has those.

They run where the compiled library does not: on GPUs and TPUs, and without it. Activations are
read and written in their own dtype and computed in float32 (float64 for float64). They are centred
before they are multiplied or squared, so results are exact at any offset. A position of weight 0
that holds NaN or Inf is read as the centre.
"""

from typing import Any

import jax.numpy as jnp

from keras_norms.jax.operands import Parts, vector_dtype
from keras_norms.jax.pairs import Pair, ratio


def moments(x, weights):
    """The `Parts` of every segment; zeros where the count is 0."""
    dtype = vector_dtype(x)
    anchor = _some_value(x, weights).astype(dtype)
    shifted = x.astype(dtype) - _spread(anchor)

    def total(values):
        if weights is not None:
            # No NaN passes a weight of 0.
            values = jnp.where(weights > 0, values * weights, 0.0)
        return _total(values)

    count = _total(jnp.ones_like(x[:, :, :1], dtype) if weights is None else weights)
    shift = ratio(total(shifted), count)
    centred = shifted - _spread(shift)
    # Around a mean that is right but for its last digits, sums do not cancel.
    rest = ratio(total(centred), count)
    m2 = jnp.maximum(total(jnp.square(centred)) - count * jnp.square(rest), 0.0)
    return Parts(count, Pair(jnp.where(count > 0, anchor, 0.0), shift + rest), m2)


def sums(operands, weighted):
    """`sum w u` and, with `v`, `sum w u (v - center)`; without `u` it is `v - center`."""
    u, v, center = operands.u, operands.v, operands.center
    dtype = vector_dtype(v if u is None else u)
    centred: Any = None if v is None else _centred(v, center, operands.weights)
    values = centred if u is None else u.astype(dtype)
    weighed = values * operands.weights if weighted else values
    sum_u = _total(weighed)
    if v is None:
        return (sum_u,)
    return sum_u, _total(weighed * centred)


def blend(operands, weighted):
    """`a u + w (b (v - center) + c)`, in the dtype of the activations; each term is optional."""
    u, v, a, b, c, center, weights = operands
    activation = u if v is None else v
    terms = []
    if v is not None:
        terms.append(_centred(v, center, weights) * _spread(b))
    if c is not None:
        terms.append(jnp.broadcast_to(_spread(c), activation.shape))
    if weighted:
        terms = [term * weights for term in terms]
    if u is not None:
        scaled = u.astype(vector_dtype(u))
        terms.append(scaled if a is None else scaled * _spread(a))
    return sum(terms[1:], terms[0]).astype(activation.dtype)


def _some_value(x, weights):
    """A value of each channel that counts; others are close to it where offsets are large."""
    segments, rows, channels, inner = x.shape
    if weights is None:
        return x[:, 0, :, 0]
    # The positions last, so that one index finds a value in every channel.
    place = jnp.argmax(weights.reshape(segments, -1) > 0, axis=1)[:, None]
    values = x.transpose(0, 2, 1, 3).reshape(segments, channels, rows * inner)
    found = jnp.take_along_axis(values, place[:, :, None], axis=2)[..., 0]
    return jnp.where(jnp.isfinite(found), found, 0)


def _centred(v, center, weights):
    centred = v.astype(vector_dtype(v))
    if center is not None:
        centred = (centred - _spread(center.high)) - _spread(center.low)
    if weights is None:
        return centred
    return jnp.where((weights > 0) | jnp.isfinite(centred), centred, 0.0)


def _spread(vector):
    """(segments, channels) in a shape that broadcasts to (segments, rows, channels, inner)."""
    return vector[:, None, :, None]


def _total(values):
    return jnp.sum(values, axis=(1, 3))
