"""Whether the graph that is being traced goes into a file that others load, and its form there.

Exported models must load where keras_norms is not installed, so they hold stock TensorFlow
operations only, and layers trace the reference into them. TensorFlow and Keras have no public
flag that says so on every version. What does is the call stack: whoever writes a SavedModel
or converts a model traces it from within the functions that do. Modules are compared by name,
so that none has to be imported.

Replicas of a strategy are traced by threads of their own, so there the stacks of all threads are
looked at: a layer that is traced elsewhere meanwhile gets the reference too, and is slower.

What was traced before is not traced again: a concrete function of one's own holds the
implementation of the time when it was traced. For that there is the scope `exporting`.
"""

import sys

import tensorflow as tf

from keras_norms.arguments import is_bool, require
from keras_norms.ops.scopes import Scope

_WRITERS = (
    "tensorflow.python.saved_model.save",
    "tensorflow.lite.python",
    "keras.src.export",
    "keras.src.saving.legacy.saved_model",
    "tf_keras.src.export",
    "tf_keras.src.saving.legacy.saved_model",
    "tf2onnx.",
)
_scope = Scope()


def exporting(centered=False):
    """A scope in which layers are traced as into an exported file, of stock operations only.

    `model.export`, `tf.saved_model.save`, `tf.lite.TFLiteConverter` and tf2onnx need no scope:
    layers notice that they are called by these. Use it for a function that you trace yourself and
    hand over afterwards, to `TFLiteConverter.from_concrete_functions` or as a signature, and around
    any of them to choose `centered`. Not for training, which it only makes slower.

    Args:
        centered: how inference is computed. `False` is `scale * x + (shift - scale * mean)`, as in
            stock Keras: converters fold it into a convolution or a matrix product beside it. What
            float32 loses of `scale * x` is about 6e-8 `|mean| / stddev` standard deviations.
            `True` is `scale * (x - mean) + shift`, exact at any offset and folded by few
            converters. Use it where `|mean| / stddev` of a layer's inputs is above about 1e3, as of
            raw readings of sensors before the first layer. Defaults to `False`.

    Raises:
        ValueError: if `centered` is not a bool.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras_norms.BatchNormalization()])
    >>> with keras_norms.exporting():
    ...     function = tf.function(model).get_concrete_function(tf.TensorSpec((None, 8)))
    >>> any(node.op.startswith("KerasNorms>") for node in function.graph.as_graph_def().node)
    False
    """
    rule = "`centered` must be True or False"
    require(is_bool(centered), "exporting", rule, centered=centered)
    return _scope.holding(centered)


def is_exporting():
    """Returns whether the caller is being traced for a file that others load."""
    if _is_writing(sys._getframe(1)):
        return True
    if not tf.distribute.has_strategy():
        return False
    return any(map(_is_writing, sys._current_frames().values()))


def traces_for_export():
    """Returns whether the caller is being traced for such a file, now or to be written later."""
    return _scope.value is not None or is_exporting()


def combines_vectors():
    """Returns whether inference is traced as one product and one sum."""
    return traces_for_export() and not _scope.value


def _is_writing(frame):
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_WRITERS):
            return True
        frame = frame.f_back
    return False
