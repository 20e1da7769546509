"""What inference computes: an affine function per channel, whose vectors are known beforehand."""

import tensorflow as tf

from keras_norms.ops import reference
from keras_norms.ops.exporting import combines_vectors, traces_for_export
from keras_norms.ops.kernels import blend
from keras_norms.ops.operands import Operands


def affine(x, scale, center, shift=None, *, axis, weights=None, residual=None, rectifier=None):
    """Returns `y = rectifier(scale (x - center) + shift + residual)`.

    A file gets `scale x + (shift - scale center)`, a product and a sum that converters fold into a
    convolution before or after it. The vector that is added is computed in float64: what is lost
    is what `scale x` loses in the dtype of the computation. Weights tell which positions are read
    as the center, so with them it is subtracted. A file also gets the gradients of TensorFlow's
    operations, since it cannot hold ours.

    Args:
        x: activation with one channel axis.
        scale, center: float vectors, `[channels]`.
        shift: None, or a float vector.
        axis: the channel axis, non-negative.
        weights: None, or constants as `row_weights` makes them.
        residual: None, or an activation like `x`.
        rectifier: None, or a `Rectifier`.
    """
    if weights is None and combines_vectors():
        offset = tf.cast(scale, tf.float64) * tf.cast(center, tf.float64)
        shift = -offset if shift is None else tf.cast(shift, tf.float64) - offset
        center = None
    operands = dict(v=x, b=scale, c=shift, center=center, axis=axis, weights=weights)
    operands |= dict(u=residual, rectifier=rectifier)
    return reference.blend(Operands(**operands)) if traces_for_export() else blend(**operands)
