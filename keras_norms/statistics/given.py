"""The composite of a layer whose statistics are parameters: one pass forward, one back."""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops import kernels
from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.operands import Operands
from keras_norms.ops.totals import count_of


class Deviations(NamedTuple):
    """How far a batch is from given statistics, per channel, in float64. No gradient.

    Attributes:
        count: the weight behind each sum, of size 1 where all channels share it.
        sum: `sum w (x - center)`.
        sum_of_squares: `sum w (x - center)^2`.
    """

    count: tf.Tensor
    sum: tf.Tensor
    sum_of_squares: tf.Tensor

    def mean_square(self, offset):
        """`E[(x - center - offset)^2]`, with a gradient to the offset."""
        return (
            tf.math.divide_no_nan(self.sum_of_squares, self.count)
            - 2.0 * offset * tf.math.divide_no_nan(self.sum, self.count)
            + tf.square(offset)
        )


def normalize_given(x, scale, center, shift=None, *, axis=-1, weights=None):
    """Returns `y = scale * (x - center) + shift` and the `Deviations` of `x` from the centre.

    Forward reads `x` once and writes `y`; backward reads the gradient of `y` and `x` once, and
    writes that of `x`, `scale * dy`. Differentiable to any order, but for the centre and the
    deviations, which are constants.

    Args:
        x: activation with one channel axis.
        scale: float vector, `[channels]`.
        center: float vector, in the dtype that `x` is computed in.
        shift: None, or a float vector.
        axis: the channel axis. Defaults to `-1`.
        weights: None, or constants as `row_weights` makes them. They weigh the deviations.
    """
    axis %= x.shape.rank
    options = dict(axis=axis, weights=weights)
    center = tf.stop_gradient(center)

    @tf.custom_gradient
    def composite(x, *vectors):
        operands = Operands(
            v=x,
            center=center,
            scale=vectors[0],
            shift=vectors[1] if len(vectors) > 1 else None,
            weighted=weights is not None,
            **options,
        )
        total, squares, y = kernels_in_use().sums(operands)

        def gradient(dy, *_):
            sum_dy, sum_dy_centred, dx = kernels.sums(
                u=dy, v=x, center=center, scale=vectors[0], **options
            )
            of_vectors = [sum_dy_centred, sum_dy][: len(vectors)]
            return dx, *[tf.cast(g, v.dtype) for g, v in zip(of_vectors, vectors, strict=True)]

        return (y, total, squares), gradient

    y, total, squares = composite(x, *([scale] if shift is None else [scale, shift]))
    return y, Deviations(count_of(x, **options), *map(tf.stop_gradient, (total, squares)))
