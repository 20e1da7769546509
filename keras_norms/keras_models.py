"""How Keras keeps the layers of a model, and reads configs: what it has no public names for."""

import importlib

import tensorflow as tf

from keras_norms.keras_api import IS_KERAS_3, keras

_PACKAGE = f"{keras.layers.Layer.__module__.partition('.')[0]}.src"
_serialization = importlib.import_module(f"{_PACKAGE}.saving.serialization_lib")
_functional = importlib.import_module(
    f"{_PACKAGE}.models.functional" if IS_KERAS_3 else f"{_PACKAGE}.engine.functional"
)


def forget_losses(model):
    """Empties `model.losses`, as each call of the model does first. Keras has no public way."""
    model._clear_losses()


def symbolic_calls(layer):
    """What a layer is called on in all models that it is in: a flat list of tensors for each call.

    In Keras 3 `layer.input` is that of the first call, however many there are.
    """
    return [tf.nest.flatten(node.input_tensors) for node in layer._inbound_nodes]


def is_graph(layer):
    """Whether a layer is a Sequential or functional model; what it calls is in its graph."""
    return isinstance(layer, (keras.Sequential, _functional.Functional)) and bool(
        getattr(layer, "_is_graph_network", True)
    )


def copy_trainable(variable, copy):
    """Copies the flag that Keras 3 lets single variables have."""
    if IS_KERAS_3 and copy.trainable != variable.trainable:
        copy.trainable = variable.trainable


def is_layer_model(layer):
    """Whether a layer is a Sequential or functional model, whose config holds its layers."""
    if isinstance(layer, keras.Sequential):
        return True
    kind = type(layer)
    if not isinstance(layer, _functional.Functional):
        return False
    # Keras 3 writes the arguments of another constructor instead.
    is_plain = _functional.functional_like_constructor(kind) if IS_KERAS_3 else True
    return is_plain and kind.get_config is _functional.Functional.get_config


def replace_attribute(layer, name, value, changes):
    """Sets an attribute that holds layers, some of them others than before.

    Keras 3 remembers layers in a list that nothing may be added to once a layer is built.

    Args:
        layer: whose attribute it is.
        name: of the attribute.
        value: a layer, or a list, tuple or dict with layers.
        changes: pairs of the layer that was there and the one that is there now.
    """
    if IS_KERAS_3:
        for old, new in changes:
            if old is not new and layer._tracker.is_in_store("layers", old):
                layer._tracker.replace_tracked_value("layers", old, new)
        setattr(layer, name, value)
        return
    # Keras 2 would put it behind all other attributes, and the order of weights would change.
    before = getattr(layer, name)
    tracked = layer._self_tracked_trackables
    places = [index for index, held in enumerate(tracked) if held is before]
    setattr(layer, name, value)
    tracked = layer._self_tracked_trackables
    if places and tracked[-1] is getattr(layer, name):
        tracked.insert(places[0], tracked.pop())


def rename(layer, name):
    """Gives a layer the name that its copy in another model has."""
    setattr(layer, "name" if IS_KERAS_3 else "_name", name)


def trusting_configs():
    """A context in which configs may hold functions of Python, as those of `Lambda` layers do."""
    return _serialization.SafeModeScope(safe_mode=False)
