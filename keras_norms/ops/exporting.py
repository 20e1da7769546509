"""Whether the graph that is being traced goes into a SavedModel.

Exported models must load where keras_norms is not installed, so they hold stock TensorFlow
operations only, and layers trace the reference into them. TensorFlow and Keras have no public
flag that says so on every version. What does is the call stack: whoever writes a SavedModel
traces the model from within the functions that write it. Modules are compared by name,
so that none has to be imported.

Replicas of a strategy are traced by threads of their own, so there the stacks of all threads are
looked at: a layer that is traced elsewhere meanwhile gets the reference too, and is slower.

What was traced before is not traced again: a concrete function of one's own holds the
implementation of the time when it was traced.
"""

import sys

import tensorflow as tf

_WRITERS = (
    "tensorflow.python.saved_model.save",
    "tensorflow.lite.python",
    "keras.src.export",
    "keras.src.saving.legacy.saved_model",
    "tf_keras.src.export",
    "tf_keras.src.saving.legacy.saved_model",
)


def is_exporting():
    """Returns whether the caller is being traced for a file that others load."""
    if _is_writing(sys._getframe(1)):
        return True
    if not tf.distribute.has_strategy():
        return False
    return any(map(_is_writing, sys._current_frames().values()))


def _is_writing(frame):
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_WRITERS):
            return True
        frame = frame.f_back
    return False
