"""Where a copy of a model is built from configs: under which strategy, and with which classes."""

import contextlib

import tensorflow as tf

from keras_norms.keras_api import keras
from keras_norms.keras_models import trusting_configs


def scope_of(model):
    """The strategy under which the copy's variables are created: that of the model."""
    if tf.distribute.has_strategy():
        return contextlib.nullcontext()
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


@contextlib.contextmanager
def configs_of(layers):
    """Where configs are read with the classes at hand, which need not be registered."""
    modules = "keras", "tf_keras", "keras_norms"
    classes = {type(layer) for layer in layers}
    own = {kind.__name__: kind for kind in classes if kind.__module__.split(".")[0] not in modules}
    with keras.utils.custom_object_scope(own), trusting_configs():
        yield
