"""What Keras 2 needs of a layer that is not its own."""

import contextlib
import sys
import types

import tensorflow as tf

from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.layers.inputs import static_if_possible


def registered(layer_class):
    """Class decorator: files call the layer `keras_norms>Name`, and loading finds it."""
    keras.saving.register_keras_serializable(package="keras_norms")(layer_class)
    if not IS_KERAS_3:
        # Keras 2 has no public way; 2.15 and tf_keras 2.21 are its last versions.
        layer_class._keras_api_names = layer_class._keras_api_names_v1 = _NameInKeras()
    return layer_class


class _NameInKeras:
    """The name of a class in the API of Keras, which Keras 2 looks up for two purposes.

    * Of a layer: `TimeDistributed` calls layers of its API once, on all time steps. Where the batch
      size is known it would call ours on one time step after the other, and on the first one
      twice, to see what it returns.
    * Of a class, to write it to a file. Keras writes the names of classes that are not its own
      twice, as `Name` and as `keras_norms>Name`. But wrappers, and .h5 files, are loaded by the
      first alone, and `BatchNormalization` would be the stock layer. So where these are
      written there is only the second.
    """

    def __get__(self, layer, layer_class):
        if layer is not None:
            return ("keras_norms",)
        if _is_in_wrapper():
            raise TypeError("A wrapper writes what raises this by the registered name alone.")
        name = keras.saving.get_registered_name(layer_class)
        return (f"keras_norms.{name}",) if _is_in_h5_file() else ()


def _is_in_wrapper():
    """Whether the config that is being written is that of a layer like `TimeDistributed`."""
    writers = (f.f_code for f in _callers() if f.f_code.co_name == "get_config")
    return next(writers, None) is keras.layers.Wrapper.get_config.__code__


def _is_in_h5_file():
    return any(frame.f_code.co_name == "save_model_to_hdf5" for frame in _callers())


def _callers():
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def name_scope_of(layer):
    """Where weights are created that are then called `norm/gamma`, not `gamma`.

    Keras enters it when it builds a layer for a call, but not when it builds one from a file:
    optimizers that exclude weights by name would not find them.
    """
    return contextlib.nullcontext() if IS_KERAS_3 else tf.name_scope(layer.name)


def mode_without_eager(training, owner):
    """`training` where eager execution is disabled: inference only.

    Nothing runs the updates of a layer in a session of TensorFlow 1.

    Raises:
        RuntimeError: for `training=True`. Where it is known as the graph runs only, that run fails.
    """
    if training is None and not IS_KERAS_3:
        training = keras.backend.learning_phase()
    training = static_if_possible(training, owner)
    message = (
        f"{owner}: training needs eager execution, since in a session nothing would move the "
        "statistics. Remove `tf.compat.v1.disable_eager_execution()`. Received: training without."
    )
    if training is True:
        raise RuntimeError(message)
    if training is False:
        return False
    with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(training), [message])]):
        return tf.identity(training)
