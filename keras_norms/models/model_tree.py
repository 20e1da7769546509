"""Which layers a layer holds, and where: in models of layers, attributes, lists and dicts."""

import collections
import functools
import os
import tempfile
import types

import tensorflow as tf

from keras_norms.keras_api import is_variable, keras
from keras_norms.keras_models import copy_trainable, is_graph, is_layer_model

_CONTAINERS = (list, tuple, dict)


def children(layer):
    """`(place, child)` of each layer directly inside another, in an order that copies share."""
    if is_graph(layer):
        yield from ((str(index), child) for index, child in enumerate(layer.layers))
        return
    for name, value in attributes(layer):
        yield from layers_in(name, value)


def attributes(layer):
    """`(name, value)` of the attributes that a layer's author set."""
    of_keras = _attributes_of_keras()
    for name, value in sorted(vars(layer).items()):
        if name not in of_keras and not name.startswith("_self_"):
            yield name, value


@functools.cache
def _attributes_of_keras():
    """Where Keras keeps, among others, the layers of a layer a second time."""
    return {*vars(keras.layers.Layer()), *vars(keras.Model()), "history", "optimizer"}


def layers_in(place, value):
    """`(place, layer)` of the layers in an attribute's value."""
    if isinstance(value, keras.layers.Layer):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from layers_in(f"{place}[{key!r}]", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from layers_in(f"{place}[{index}]", item)


def walk(model):
    """`(path, layer)` of a model and of all layers in it, each once, parents first.

    A path is the same in a model and in a copy of it. Layers that are hidden come last.
    """
    seen = set()

    def visit(path, layer):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path, layer
        for place, child in (*children(layer), *hidden_layers(layer)):
            yield from visit((*path, place), child)

    return list(visit((), model))


def path_names(found):
    """Paths of `walk` as names: of layers in models, and of attributes and items elsewhere."""
    layers = dict(found)
    names = {(): layers[()].name}
    for path, layer in found[1:]:
        parent, place = path[:-1], path[-1]
        name = layer.name if is_layer_model(layers[parent]) else place
        names[path] = f"{names[parent]}/{name}" if parent else name
    return names


def own_variables(layer):
    """Variables of a layer that are of no layer directly inside it, and of no metric."""
    others = [v for _, child in children(layer) for v in child.variables]
    if isinstance(layer, keras.Model):
        others += [v for metric in layer.metrics for v in metric.variables]
    known = {id(v) for v in others}
    return [v for v in layer.variables if id(v) not in known]


def copy_own_state(layer, copy):
    """Copies variables of a layer that are of no layer in it, and files such as vocabularies.

    Returns:
        Pairs of variables that are the same in both.
    """
    pairs = list(zip(own_variables(layer), own_variables(copy), strict=True))
    for old, new in pairs:
        if is_variable(new):
            new.assign(old)
            copy_trainable(old, new)
    if hasattr(layer, "save_assets") and hasattr(copy, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            if os.listdir(folder):
                copy.load_assets(folder)
    if hasattr(copy, "finalize_state"):  # Of `Normalization` and the like, once they are adapted.
        copy.finalize_state()
    return [pair for pair in pairs if is_variable(pair[1])]


def replaced(value, replace):
    """An attribute's value, with `replace(layer)` in place of each layer in it."""
    if isinstance(value, keras.layers.Layer):
        return replace(value)
    if isinstance(value, dict):
        items = ((key, replaced(item, replace)) for key, item in value.items())
        return collections.OrderedDict(items) if _is_ordered(value) else dict(items)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        kind = type(getattr(value, "__wrapped__", value))  # Keras wraps what it tracks.
        return kind(*(replaced(item, replace) for item in value))
    if isinstance(value, (list, tuple)):
        kind = tuple if isinstance(value, tuple) else list
        return kind(replaced(item, replace) for item in value)
    return value


def _is_ordered(value):
    return isinstance(value, collections.OrderedDict)


def hidden_layers(layer):
    """`(place, layer)` of layers that an attribute holds in a set, a function or some object.

    They may run, but nobody can put another layer there.
    """
    if is_graph(layer):
        return
    for name, value in attributes(layer):
        yield from _hidden_in(name, value, depth=3)


def _hidden_in(place, value, depth):
    if depth == 0:
        return
    if isinstance(value, types.FunctionType):
        cells = (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        held = [(f"{place} (a function)", content) for content in cells]
    elif isinstance(value, (set, frozenset)):
        held = [(f"{place} (a set)", item) for item in value]
    elif isinstance(value, _CONTAINERS):
        held = []
    elif _is_of_the_author(value):
        held = [(f"{place}.{name}", item) for name, item in vars(value).items()]
    else:
        return
    for where, item in held:
        for _, layer in layers_in(where, item):
            yield where, layer
        yield from _hidden_in(where, item, depth - 1)


def _is_filled(cell):
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_of_the_author(value):
    modules = "tensorflow", "keras", "tf_keras", "numpy", "builtins"
    module = type(value).__module__ or ""
    is_known = module.split(".")[0] in modules
    return not is_known and not isinstance(value, (type, tf.Module)) and hasattr(value, "__dict__")
