"""Piecewise linear activations, which kernels compute in the pass that writes `y`."""

import math
from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops.exporting import traces_for_export


class Rectifier(NamedTuple):
    """`min(z, cap)` where `z` is above 0, and `negative_slope * z` elsewhere.

    Its gradient can be told from its result, so nothing has to be kept for it: the result is above
    0 and below the cap exactly where `z` is.

    Attributes:
        negative_slope: a finite number, at least 0.
        cap: a number above 0; infinite for none. With a cap the slope is 0.
    """

    negative_slope: float = 0.0
    cap: float = math.inf

    def __call__(self, z):
        """In TensorFlow's operation of that name where there is one, which converters know."""
        if self.negative_slope:
            return tf.nn.leaky_relu(z, self.negative_slope)
        if self.cap == 6.0:
            return tf.nn.relu6(z)
        y = tf.nn.relu(z)
        return y if self.cap == math.inf else tf.minimum(y, tf.cast(self.cap, y.dtype))

    def gradient(self, dy, y):
        """The gradient of `z` from that of the result `y`."""
        if self.negative_slope:
            slope = self.negative_slope
            return tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=slope)
        if self.cap == math.inf:
            return tf.raw_ops.ReluGrad(gradients=dy, features=y)
        if self.cap == 6.0:
            return tf.raw_ops.Relu6Grad(gradients=dy, features=y)
        passes = tf.logical_and(y > 0.0, y < tf.cast(self.cap, y.dtype))
        return tf.where(passes, dy, tf.zeros_like(dy))


def add_and_rectify(y, residual, rectifier):
    """`rectifier(y + residual)`, each of the two optional, in operations of TensorFlow."""
    y = y if residual is None else sum_of(y, residual)
    return y if rectifier is None else rectifier(y)


def sum_of(a, b):
    """`a + b` of two activations of one shape, and an error where one would be broadcast."""
    has_known_sizes = a.shape.is_fully_defined() and a.shape == b.shape
    # Converters fold a plain sum only.
    return a + b if has_known_sizes or traces_for_export() else tf.add_n([a, b])
