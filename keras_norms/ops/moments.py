"""The public face of batch moments."""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops.kernels import moments
from keras_norms.ops.layout import ChannelView, canonical_axes, full_shape
from keras_norms.ops.weights import row_weights


class Moments(NamedTuple):
    """Statistics of a batch, float64 vectors.

    Attributes:
        mean: `sum(w x) / count`.
        variance: `sum(w (x - mean)^2) / count`, the population variance.
        count: `sum(w)`, the number of values behind each channel's mean.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


def batch_moments(x, axis=-1, mask=None):
    """Mean and variance per channel, exact at any offset and differentiable to any order.

        mean     = sum(w * x) / count
        variance = sum(w * (x - mean)^2) / count,    count = sum(w)

    `tf.nn.moments` stops the gradient through the mean, which makes second-order
    gradients wrong, and sums in the dtype of its input, which makes the variance of values
    far from zero wrong. This function does neither, and takes a mask.

    Ranges, for inputs that are computed in float32: deviations from the mean up to 1e37 and
    weights from 1e-36 on with the compiled kernels on a CPU; elsewhere up to 1e16, and weights
    whose product with the squared deviations is between 1e-36 and 1e32. Beyond, a variance
    is infinite or 0. Deviations below 1e-18 have no variance, and gradients want them up to 1e16.

    Args:
        x: float tensor `(batch, ..., channels, ...)`.
        axis: the channel axis, or several. Defaults to `-1`.
        mask: bool, or numbers as weights (negative and NaN count as 0), of the shape of the leading
            non-channel axes of `x`, or of the rank of `x` with 1 on the channel axes.
            They are constants: no gradient flows to them. Defaults to `None`: all positions count.

    Returns:
        `Moments(mean, variance, count)` in float64, mean and variance of the shape of the channel
        axes. Where the count is 0 they are 0. `count` has size 1 where it is the same for
        all channels.

    Raises:
        ValueError: if `axis` or the shape of the mask does not fit `x`.

    Example:

    >>> moments = keras_norms.ops.batch_moments(tf.constant([[1.0], [3.0], [8.0]]),
    ...                                         mask=[True, True, False])
    >>> moments.mean.numpy(), moments.variance.numpy(), moments.count.numpy()
    (array([2.]), array([1.]), array([2.]))
    """
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise ValueError(f"batch_moments: `x` must be a float tensor. Received: dtype={x.dtype}.")
    axes = canonical_axes(axis, x.shape.rank)
    view = ChannelView(axes, x.shape.rank)
    weights = row_weights(mask, x, axes)
    weights = None if weights is None else view.apply(weights)
    count, mean, m2 = moments(view.apply(x), axis=view.axis, weights=weights)
    variance = tf.math.divide_no_nan(m2, count)
    if len(axes) > 1:
        sizes = full_shape(x)
        shape = [sizes[a] for a in axes]
        mean, variance = tf.reshape(mean, shape), tf.reshape(variance, shape)
    return Moments(mean, variance, count)
