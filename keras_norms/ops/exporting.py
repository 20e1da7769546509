"""Whether the graph that is being traced goes into a SavedModel.

Exported models must load where keras_norms is not installed, so they hold stock TensorFlow
operations only, and layers trace the reference into them. TensorFlow and Keras have no public
flag that says so on every version. What does is the call stack: whoever writes a SavedModel
traces the model from within the functions that write it. Modules are compared by name,
so that none has to be imported.

What was traced before is not traced again: a `tf.function` of one's own that was called before
it is exported holds the implementation of that time.
"""

import sys

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
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_WRITERS):
            return True
        frame = frame.f_back
    return False
