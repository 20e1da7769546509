"""Whether the graph that is being traced may call Python while it runs."""

import tensorflow as tf

from keras_norms.ops.exporting import traces_for_export


def may_call_python():
    """False where XLA compiles the graph, which has no such operation, or a file is written."""
    return not (traces_for_export() or _is_for_xla(tf.compat.v1.get_default_graph()))


def _is_for_xla(graph):
    """Whether a graph, or one around it, is compiled by XLA; TensorFlow has no public question."""
    while graph is not None:
        context = getattr(graph, "_get_control_flow_context", lambda: None)()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
