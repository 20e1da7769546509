"""Shards that share statistics: the only place with a collective.

The forward exchange gives every shard a slot of its own in one packed sum, so that the parts arrive
as they were sent and can be merged exactly; sums of moments over shards would lose the variance of
values far from zero. The backward exchange is a plain sum. Axes are those of a mesh in
`jax.shard_map`, or what `jax.vmap` and `jax.pmap` call `axis_name`.
"""

import jax
import jax.numpy as jnp

from keras_norms.arguments import require
from keras_norms.jax.arrays import received
from keras_norms.jax.operands import Parts
from keras_norms.jax.pairs import Pair, ratio


def check_axis_name(axis_name, owner):
    """Raises `ValueError` for what names no axes."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    are_names = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    require(
        axis_name is None or are_names,
        owner,
        "`axis_name` must be None, a str or a tuple of distinct ones",
        **received("axis_name", axis_name),
    )


def merged(parts, axis_name):
    """The `Parts` of all shards of an axis, by one collective; without a name these."""
    if axis_name is None:
        return parts
    channels = parts.m2.shape[1]
    packed = jnp.concatenate([parts.count, *parts.mean, parts.m2], axis=1)
    ends = [1, 1 + channels, 1 + 2 * channels]
    counts, highs, lows, m2s = jnp.split(_slots(packed, axis_name), ends, axis=2)
    # Around the anchor of a shard that has values: means may be far from zero and close together.
    first = jnp.argmax(counts > 0, axis=0, keepdims=True)
    high = jax.lax.stop_gradient(jnp.take_along_axis(highs, first, axis=0)[0])
    means = jnp.where(counts > 0, (jax.lax.stop_gradient(highs) - high) + lows, 0.0)
    count = jnp.sum(counts, axis=0)
    low = ratio(jnp.sum(counts * means, axis=0), count)
    m2 = jnp.sum(m2s + counts * jnp.square(means - low), axis=0)
    return Parts(count, Pair(high, low), m2)


def total(vectors, axis_name):
    """The sums over the shards of an axis, by one collective; without a name these."""
    return vectors if axis_name is None else jax.lax.psum(vectors, axis_name)


def of_the_same_shards(operands):
    """The same arrays, all as different on the shards of a mesh as one of them is.

    In `jax.shard_map` an array has a type that tells over which axes of the mesh it varies, and a
    gradient has the type of its operand. JAX's own operations bring their operands together, and
    add the sums over shards that gradients need; functions with gradients of their own do it here.
    """
    axes = [_varying_axes(array) for array in jax.tree.leaves(operands)]
    varying = frozenset().union(*axes)
    if not varying:
        return operands

    def spread(array):
        missing = tuple(sorted(varying - _varying_axes(array), key=str))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(spread, operands)


def _slots(packed, axis_name):
    """`packed` of every shard, stacked on a new first axis: a sum in which each has its own row."""
    size = jax.lax.axis_size(axis_name)
    is_own = jnp.arange(size) == jax.lax.axis_index(axis_name)
    own = is_own.reshape(-1, *[1] * packed.ndim)
    # A NaN in one row must not be one in all.
    return jax.lax.psum(jnp.where(own, packed, 0.0), axis_name)


def _varying_axes(array):
    """The axes of the mesh over which an array differs from shard to shard."""
    kind = jax.typeof(array)
    # The attribute had the name `vma` before JAX 0.10.
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
