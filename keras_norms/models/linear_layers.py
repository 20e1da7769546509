"""Layers with kernels, and what a scale and an offset of their inputs or outputs do to the weights.

All is float64. Kernels are `(..., in, out)`, of a transposed convolution `(..., out, in)`, of a
depthwise one `(..., in, multiplier)`; of groups each has the inputs of one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import keras


class Kind(NamedTuple):
    """How the kernels of a kind of layer act on channels.

    Attributes:
        kernels: how many.
        scale_outputs: `scale_outputs(kernels, scale)`, the kernels with outputs times `scale`.
        scale_inputs: `scale_inputs(kernels, scale)`, the same for inputs.
        of_constant: `of_constant(kernels, values)`, the outputs, without a bias, where all kernel
            positions meet the same `values` of the channels.
    """

    kernels: int
    scale_outputs: Callable
    scale_inputs: Callable
    of_constant: Callable


def _by_group(values, kernel):
    """Values of all input channels as `(in, out)`: those that an output reads, in its group."""
    inputs, outputs = kernel.shape[-2:]
    groups = len(values) // inputs
    return np.repeat(values.reshape(groups, inputs).T, outputs // groups, axis=1)


def _sum(kernel, kept):
    """Over all axes but the last ones, as a vector."""
    return kernel.sum(tuple(range(kernel.ndim - kept))).reshape(-1)


PLAIN = Kind(
    1,
    lambda kernels, scale: [kernels[0] * scale],
    lambda kernels, scale: [kernels[0] * _by_group(scale, kernels[0])],
    lambda kernels, values: _sum(kernels[0] * _by_group(values, kernels[0]), 1),
)
TRANSPOSED = Kind(
    1,
    lambda kernels, scale: [kernels[0] * scale[:, np.newaxis]],
    lambda kernels, scale: [kernels[0] * scale],
    lambda kernels, values: _sum(np.swapaxes(kernels[0] * values, -1, -2), 1),
)
DEPTHWISE = Kind(
    1,
    lambda kernels, scale: [kernels[0] * scale.reshape(kernels[0].shape[-2:])],
    lambda kernels, scale: [kernels[0] * scale[:, np.newaxis]],
    lambda kernels, values: _sum(kernels[0] * values[:, np.newaxis], 2),
)
SEPARABLE = Kind(
    2,
    lambda kernels, scale: [kernels[0], kernels[1] * scale],
    lambda kernels, scale: [*DEPTHWISE.scale_inputs(kernels[:1], scale), kernels[1]],
    lambda kernels, values: PLAIN.of_constant(
        kernels[1:], DEPTHWISE.of_constant(kernels[:1], values)
    ),
)
KINDS = {
    keras.layers.Dense: PLAIN,
    keras.layers.Conv1D: PLAIN,
    keras.layers.Conv2D: PLAIN,
    keras.layers.Conv3D: PLAIN,
    keras.layers.Conv1DTranspose: TRANSPOSED,
    keras.layers.Conv2DTranspose: TRANSPOSED,
    keras.layers.Conv3DTranspose: TRANSPOSED,
    keras.layers.DepthwiseConv1D: DEPTHWISE,
    keras.layers.DepthwiseConv2D: DEPTHWISE,
    keras.layers.SeparableConv1D: SEPARABLE,
    keras.layers.SeparableConv2D: SEPARABLE,
}


class LinearLayer:
    """The weights that a layer of one of the `KINDS` would have with more folded into them.

    The layer itself is left alone.
    """

    def __init__(self, layer):
        self.layer, self.kind = layer, KINDS[type(layer)]
        arrays = [array.astype(np.float64) for array in layer.get_weights()]
        self._kernels = arrays[: self.kind.kernels]
        self._bias = arrays[self.kind.kernels] if layer.use_bias else 0.0

    @property
    def is_plain(self):
        """Whether the layer has no weights but its kernels and a bias: it may be quantized."""
        return len(self.layer.get_weights()) == self.kind.kernels + bool(self.layer.use_bias)

    @property
    def activation(self):
        """Its name, or None."""
        activation = self.layer.activation
        if activation is keras.activations.linear:
            return None
        return getattr(activation, "__name__", type(activation).__name__)

    @property
    def border(self):
        """Why some outputs see less of a constant input than others, or None."""
        if isinstance(self.layer, keras.layers.Dense):
            return None
        is_small = set(self.layer.kernel_size) == {1}
        if self.kind is TRANSPOSED:
            # With strides, outputs between those of a small kernel see nothing.
            is_even = is_small and set(self.layer.strides) == {1}
            return None if is_even else "adds up fewer inputs in some places"
        return None if is_small or self.layer.padding == "valid" else "pads with zeros"

    def channel_axis(self, rank):
        """The axis of the channels of inputs and outputs of this rank, from 0."""
        is_first = getattr(self.layer, "data_format", None) == "channels_first"
        return 1 if is_first else rank - 1

    def fold_after(self, scale, offset):
        """Makes the outputs `scale * outputs + offset`."""
        self._kernels = self.kind.scale_outputs(self._kernels, scale)
        self._bias = scale * self._bias + offset

    def fold_before(self, scale, offset):
        """Makes the outputs those of `scale * inputs + offset`."""
        self._bias = self._bias + self.kind.of_constant(self._kernels, offset)
        self._kernels = self.kind.scale_inputs(self._kernels, scale)

    @property
    def is_finite(self):
        """Whether the weights are, in the dtype that the layer computes with."""
        dtype = tf.as_dtype(self.layer.compute_dtype).as_numpy_dtype
        with np.errstate(over="ignore"):
            arrays = [array.astype(dtype).astype(np.float64) for array in self.weights()]
        return all(np.isfinite(array).all() for array in arrays)

    @property
    def use_bias(self):
        return bool(self.layer.use_bias or np.any(self._bias))

    def weights(self):
        """In the dtype of the layer's."""
        arrays = [*self._kernels, self._bias] if self.use_bias else self._kernels
        dtype = self.layer.get_weights()[0].dtype
        with np.errstate(over="ignore"):  # See `is_finite`.
            return [array.astype(dtype) for array in arrays]
