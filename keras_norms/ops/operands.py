"""What the kernels are given: one tuple for all of them, so that an operand is named once."""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops.rectifier import Rectifier

# The tensors that each operation of the compiled library takes, in the order of its inputs.
TENSORS = {
    "moments": ("x", "weights"),
    "sums": ("u", "v", "center", "scale", "shift", "weights"),
    "blend": ("u", "v", "a", "b", "c", "center", "weights"),
}


class Operands(NamedTuple):
    """The operands of `sums` and `blend`; each reads those that its formula names.

    Attributes:
        axis: the channel axis, non-negative. Activations have one; see `ChannelView`.
        u, v: activations of the same shape.
        a, b, c, center, scale, shift: float64 vectors, `[channels]`, or `[segments, channels]`
            with a segment size. Without `a`, `u` is taken as it is.
        weights: None, or weights as `row_weights` makes them; constants. Where they are 0, a `v`
            that is not finite is read as the center.
        weighted: whether the weights also weigh; otherwise they only tell what is invalid.
        segment_size: None, or rows per segment; the last segment takes the remainder.
        rectifier: None, or the `Rectifier` that `blend` applies to its result.
    """

    axis: int
    u: tf.Tensor | None = None
    v: tf.Tensor | None = None
    a: tf.Tensor | None = None
    b: tf.Tensor | None = None
    c: tf.Tensor | None = None
    center: tf.Tensor | None = None
    scale: tf.Tensor | None = None
    shift: tf.Tensor | None = None
    weights: tf.Tensor | None = None
    weighted: bool = False
    segment_size: int | None = None
    rectifier: Rectifier | None = None

    @property
    def differentiable(self):
        """The tensors present that gradients flow to, by name."""
        names = ("u", "v", "a", "b", "c", "center", "scale", "shift")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def layout(self):
        """How activations are read: the axis, the segments and the weights, as keywords."""
        return dict(
            axis=self.axis,
            weights=self.weights,
            weighted=self.weighted,
            segment_size=self.segment_size,
        )

    @property
    def unweighted_layout(self):
        """The layout without weights."""
        return dict(axis=self.axis, segment_size=self.segment_size)

    @property
    def weighing_layout(self):
        """The layout for another tensor than `v`: weights that only tell where `v` is invalid
        say nothing of it.
        """
        return self.layout if self.weighted else self.unweighted_layout
