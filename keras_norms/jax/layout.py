"""Arrays of users as the kernels see them: (segments, rows, channels, inner), with one segment."""

import math
import operator

import jax
import jax.numpy as jnp

from keras_norms.arguments import require
from keras_norms.jax.arrays import as_floats, as_numbers
from keras_norms.jax.operands import vector_dtype


class Layout:
    """Where the channels of an array are, and the way to the form of the kernels and back.

    Nothing is transposed: rows are the axes before the channels, inner those behind.

    Raises:
        ValueError: if the array has less than 2 axes or no values, or `axis` does not lie in it.
    """

    def __init__(self, x, axis, owner):
        require(x.ndim >= 2, owner, "`x` must have 2 axes or more", shape=x.shape)
        require(x.size > 0, owner, "`x` must hold values", shape=x.shape)
        self.axis = _canonical(axis, x.ndim, owner)
        self._shape, self._owner, self._dtype = x.shape, owner, vector_dtype(x)
        before, behind = x.shape[: self.axis], x.shape[self.axis + 1 :]
        self.channels = x.shape[self.axis]
        self._rows, self._inner = math.prod(before), math.prod(behind)

    def apply(self, x):
        """An activation in the form of the kernels."""
        return x.reshape(1, self._rows, self.channels, self._inner)

    def restore(self, y):
        """The way back."""
        return y.reshape(self._shape)

    def vector(self, name, value, default):
        """A vector of users in the form of the kernels, or one of `default` for None."""
        if value is None:
            return jnp.full((1, self.channels), default, self._dtype)
        return self.row(as_floats(name, value, self._owner, shape=(self.channels,)))

    def row(self, vector):
        """A vector `(channels,)` in the form of the kernels, (1, channels)."""
        return vector.astype(self._dtype)[None]

    def weights(self, mask):
        """A mask as weights (1, rows, 1, inner), constants; None for None."""
        if mask is None:
            return None
        mask = as_numbers("mask", mask, self._owner)
        weights = mask.astype(self._dtype)
        # What is not above 0, NaN included, counts as 0, so that no weight spoils a statistic.
        weights = jnp.where(weights > 0, weights, 0)
        weights = jnp.broadcast_to(weights.reshape(self._spread(mask.shape)), self._target())
        return jax.lax.stop_gradient(weights.reshape(1, self._rows, 1, self._inner))

    def _target(self):
        return (*self._shape[: self.axis], 1, *self._shape[self.axis + 1 :])

    def _spread(self, shape):
        """The shape of a mask spread over the axes of `x`, 1 where it says nothing."""
        target, rank = self._target(), len(self._shape)
        if len(shape) == rank:
            spread = shape
        else:
            # It names leading axes other than the channels.
            others = [a for a in range(rank) if a != self.axis]
            sizes = dict(zip(others, shape, strict=False))
            spread = tuple(sizes.get(a, 1) for a in range(rank))
        fits = all(size in (1, full) for size, full in zip(spread, target, strict=True))
        require(
            0 < len(shape) <= rank and math.prod(spread) == math.prod(shape) and fits,
            self._owner,
            "`mask` must have the shape of the leading non-channel axes of `x`, or the rank of "
            "`x` with 1 on the channel axis",
            mask_shape=shape,
            x_shape=self._shape,
            axis=self.axis,
        )
        return spread


def _canonical(axis, rank, owner):
    try:
        index = operator.index(axis)
        is_axis = not isinstance(axis, bool) and -rank <= index < rank
    except TypeError:
        is_axis = False
    require(is_axis, owner, f"`axis` must be an int in [-{rank}, {rank})", axis=axis)
    return index % rank
