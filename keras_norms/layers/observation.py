"""A look at what layers receive while a model runs."""

import contextlib
import inspect
from typing import Any, NamedTuple

import tensorflow as tf

from keras_norms.ops.layout import ChannelView, canonical_axes
from keras_norms.ops.weights import row_weights


class Call(NamedTuple):
    """A call of a layer that has a channel axis."""

    layer: Any
    inputs: tf.Tensor
    mask: tf.Tensor | None
    outputs: tf.Tensor
    graph: tf.Graph

    def view(self):
        """The inputs with one channel axis, their weights or None, and that axis."""
        rank = self.inputs.shape.rank
        axes = canonical_axes(self.layer.axis, rank)
        view = ChannelView(axes, rank)
        weights = row_weights(self.mask, self.inputs, axes, f"layer '{self.layer.name}'")
        weights = None if weights is None else view.apply(weights)
        return view.apply(tf.cast(self.inputs, self.layer.compute_dtype)), weights, view.axis


@contextlib.contextmanager
def observed(layers):
    """Within, each call of one of these layers is appended to the list that this yields.

    Also those of stock Keras: `call` of the layer object is replaced as long as this lasts. So
    what has been traced before is not observed.
    """
    calls = []

    def observing(layer, original):
        signature = inspect.signature(original)

        def call(*args, **kwargs):
            outputs = original(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            inputs = args[0] if args else next(iter(given.values()))  # Whatever they are called.
            mask = kwargs.get("mask", given.get("mask"))
            graph = tf.compat.v1.get_default_graph()
            calls.append(Call(layer, inputs, mask, outputs, graph))
            return outputs

        return call

    replaced = [(layer, vars(layer).get("call")) for layer in layers]
    for layer in layers:
        layer.call = observing(layer, layer.call)
    try:
        yield calls
    finally:
        for layer, own in replaced:
            del layer.call
            if own is not None:  # Someone else had replaced it before.
                layer.call = own
