"""Losses that layers add, which cannot leave the function that is being traced.

A layer adds its loss to a list, and whoever called the model reads `model.losses` afterwards. If
in between a `tf.function` is traced, or a branch of `tf.cond` or the body of a loop, the loss is a
tensor of that function, and nothing but what a function returns can be used outside. The
gradient cannot go another way either: what the loss is multiplied with (a loss scale, one over
the number of replicas) is known only outside.
"""

import inspect
import sys
import types

import tensorflow as tf

from keras_norms.keras_api import LossWhenRead, add_loss_when_read, keras
from keras_norms.ops.exporting import is_exporting
from keras_norms.printable import printable

# The function of TensorFlow that traces a `tf.function`, a branch of `tf.cond` or a loop's body.
TRACER = "func_graph_from_py_func"


def add_loss(layer, loss, owner, read=lambda loss: loss):
    """Adds a loss to a layer, and returns what is in the layer now, a `LossWhenRead`.

    Where it is read, it is `read(loss)`. Returns None where Keras keeps losses outside the layer.

    Raises:
        RuntimeError: if the loss cannot reach whoever calls the model. Where it is read, the same
            if it cannot reach the reader.
    """
    if not tf.executing_eagerly() and _is_function_inside_model() and not is_exporting():
        raise _error(owner)

    def read_within_reach(loss):
        if not _is_within_reach(loss):
            raise _error(owner, loss.graph)
        return read(loss)

    when_read = LossWhenRead(loss, read_within_reach)
    return when_read if add_loss_when_read(layer, when_read) else None


def _is_function_inside_model():
    """Whether a function is being traced that a Keras layer, the caller or one around it, called.

    It is too late to find out where the loss is read: a function that was traced before does not
    call the layer again, so there would be no loss to read, and training would go on without.
    """
    call = inspect.unwrap(keras.layers.Layer.__call__).__code__
    traced = False
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is call and traced:
            return True
        traced = traced or frame.f_code.co_name == TRACER
        frame = frame.f_back
    return False


def _is_within_reach(tensor):
    """Whether the graph of a tensor is that of the caller, or one around it."""
    of_tensor, graph = getattr(tensor, "graph", None), tf.compat.v1.get_default_graph()
    while of_tensor is not None and graph is not of_tensor:
        graph = getattr(graph, "outer_graph", None)
        if graph is None:
            return False
    return True


def _error(owner, graph=None):
    graph = graph or tf.compat.v1.get_default_graph()
    return RuntimeError(
        f"{owner}: its loss cannot leave the `tf.function`, `tf.cond` or loop that calls the layer "
        "in training; decorate the whole training step instead of a part of the model, and unroll "
        f"loops (`unroll=True`). Received: a call in the function '{printable(graph.name)}'."
    )
