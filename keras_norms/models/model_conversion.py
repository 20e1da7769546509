"""A whole model with its batch normalization layers as layers of another class."""

import collections
import warnings
from typing import Any, NamedTuple

from keras_norms.arguments import require
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.keras_models import (
    is_graph,
    is_layer_model,
    rename,
    replace_attribute,
)
from keras_norms.layers.sync_batch_normalization import SyncBatchNormalization
from keras_norms.models.compile_state import copy_compile_state
from keras_norms.models.graph_config import copied
from keras_norms.models.layer_conversion import (
    OWNER,
    check_target,
    converted_layer,
    copy_state,
    is_convertible,
)
from keras_norms.models.model_tree import (
    attributes,
    children,
    copy_own_state,
    layers_in,
    path_names,
    replaced,
    walk,
)
from keras_norms.models.rebuilding import configs_of, scope_of
from keras_norms.models.reports import ModelReport, Row
from keras_norms.printable import called, printable


class Converted(NamedTuple):
    """What `convert_batch_norm` returns."""

    model: Any
    report: ModelReport


def convert_batch_norm(model, to=SyncBatchNormalization, **arguments):
    """Returns a copy of a model with its batch normalization layers as layers of another class.

    Layers of stock Keras `BatchNormalization`, with `renorm` and `synchronized` too, and of this
    package are converted wherever they are: in Sequential and functional models, shared, nested
    in other models or wrappers, and in attributes, lists and dicts of custom layers and models.
    GroupNormalization, LayerNormalization and classes that users derived are left as they are.

    The copy has the model's weights and statistics, names, trainable flags, regularizers,
    constraints and dtype policies. If the model is compiled, so is the copy, and its optimizer
    has the slots of the old one: training goes on as if nothing had happened. The model itself
    does not change.

    * A layer with `renorm=True` becomes a `BatchRenormalization`, unless `to` is stock Keras.
    * A synchronized layer stays synchronized, unless `synchronized=False` is among the arguments.
    * Where two classes keep different statistics, inference of the copy divides by what
      inference of the model divides by.

    Args:
        model: a built Keras model that can be rebuilt from its config.
        to: a batch normalization class of this package, or `keras.layers.BatchNormalization` for
            the way back. Defaults to `SyncBatchNormalization`.
        **arguments: of `to`, for all its layers, in place of what their configs say.

    Returns:
        `Converted(model, report)`. The report has a row for each batch normalization layer: its
        path, what it became, and what could not be kept. A layer that cannot be reached (it is in
        a set, a function or an object that is no layer) is as it was, and a warning names it.

    Raises:
        ValueError: for an invalid argument, and for a model that is not built, cannot be rebuilt
            from its config, or has no batch normalization layer.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="norm")])
    >>> synchronized, report = keras_norms.convert_batch_norm(model)
    >>> synchronized.get_layer("norm")
    <SyncBatchNormalization name=norm, built=True>
    >>> print(report)
    norm: BatchNormalization -> SyncBatchNormalization
    """
    check_target(to, arguments, OWNER)
    rule = "`model` must be a Keras model"
    require(isinstance(model, keras.Model), OWNER, rule, model=type(model).__name__)
    require(model.built, OWNER, "the model must be built", model=called(model))
    found = walk(model)
    rule = "the model must have a batch normalization layer"
    has_one = any(is_convertible(layer) for _, layer in found)
    require(has_one, OWNER, rule, model=f"{called(model)} without")
    with scope_of(model), configs_of(layer for _, layer in found):
        conversion = _Conversion(to, arguments)
        for _, layer in found:
            if is_convertible(layer):
                conversion.converted(layer)
        try:
            copy = conversion.copied(model)
            variables = _copy_weights(found, walk(copy))
        except Exception as error:
            raise ValueError(
                f"{OWNER}: the model must be one that can be rebuilt from its config: what "
                "`from_config(get_config())` returns must have the same layers. "
                f"Received: {called(model)}, where that fails: {_first_line(error)}"
            ) from error
        lost = copy_compile_state(model, copy, variables)
    names = path_names(found)
    report = ModelReport(
        conversion.row(names[path], layer) for path, layer in found if is_convertible(layer)
    )
    for text in [*map(str, report.unchanged), *lost]:
        warnings.warn(f"{OWNER}: {text}", stacklevel=2)
    return Converted(copy, report)


class _Conversion:
    """One conversion of a model. Its dicts and sets have layers of the model by their `id`."""

    def __init__(self, to, arguments):
        self._to, self._arguments = to, arguments
        self._new: dict[int, Any] = {}
        self._notes: dict[int, str] = {}
        self._reached: set[int] = set()

    def copied(self, model):
        """A model's copy with converted layers; its weights are new."""
        config = copied(model.get_config())  # It may be one that the model keeps.
        if is_layer_model(model):
            self._convert_entries(config, model)
        copy = type(model).from_config(config)
        if not copy.built:
            copy.build_from_config(model.get_build_config())
            copy.built = True  # Keras 3 leaves that to who loads a file.
        self._convert_inside(copy, model)
        return copy

    def converted(self, layer):
        """What a layer becomes."""
        if id(layer) not in self._new:
            new, self._notes[id(layer)] = converted_layer(layer, self._to, self._arguments)
            self._new[id(layer)] = new
        return self._new[id(layer)]

    def row(self, name, layer):
        """What the report says of a layer."""
        if id(layer) in self._reached:
            became, note = type(self.converted(layer)).__name__, self._notes[id(layer)]
        else:
            became = None
            note = "it cannot be reached: make it an attribute, or an item of a list or dict"
        return Row(name, type(layer).__name__, became, note)

    def _convert_entries(self, config, layer):
        """Puts converted layers into the config of a layer, wherever it holds those of others."""
        # Of a custom layer two children may have one name; attributes tell them apart later.
        names = collections.Counter(child.name for _, child in children(layer))
        inside = {child.name: child for _, child in children(layer) if names[child.name] == 1}

        def visit(value):
            if isinstance(value, dict):
                child = inside.get(_name_of(value))
                if child is None:
                    for item in value.values():
                        visit(item)
                elif is_convertible(child):
                    self._reached.add(id(child))
                    _replace_entry(value, self.converted(child))
                else:
                    self._convert_entries(value["config"], child)
            elif isinstance(value, (list, tuple)):
                for item in value:
                    visit(item)

        visit(config)

    def _convert_inside(self, copy, layer):
        """Converts what configs do not show: attributes of the copy of a custom layer."""
        if is_convertible(layer):
            return
        if is_graph(layer):
            copies = dict(children(copy))
            for place, child in children(layer):
                self._convert_inside(copies[place], child)
            return
        for name, value in attributes(layer):
            held = list(layers_in(name, value))
            if not held:
                continue
            copies = dict(layers_in(name, getattr(copy, name)))
            pairs = [(copies[place], child) for place, child in held]
            instead = {id(child): self._instead(copied, child) for copied, child in pairs}
            changes = [(copied, instead[id(child)]) for copied, child in pairs]
            if any(old is not new for old, new in changes):
                value = replaced(value, lambda child: instead[id(child)])  # noqa: B023
                replace_attribute(copy, name, value, changes)

    def _instead(self, copy, layer):
        """What a custom layer is to hold instead of the copy of a layer."""
        if is_convertible(layer):
            self._reached.add(id(layer))
            new = self.converted(layer)
            is_done = type(copy) is type(new) and copy.get_config() == new.get_config()
            return copy if is_done else new
        if is_layer_model(layer) and any(is_convertible(child) for _, child in walk(layer)):
            if id(layer) not in self._new:
                self._new[id(layer)] = self.copied(layer)
            return self._new[id(layer)]
        self._convert_inside(copy, layer)
        return copy


def _copy_weights(found, copies):
    """Copies weights and flags; returns pairs of variables that are the same in both models."""
    layers, known = dict(copies), dict(found)
    for path, copy in copies:
        if path not in known:
            raise ValueError(
                f"{called(copy)} is one layer in two models or layers, and its copies are two"
            )
    flags = {path: copy.trainable for path, copy in copies}  # A model sets those of its layers.
    same = []
    for path, layer in found:
        copy = layers[path]
        copy.trainable = flags[path] if is_convertible(layer) else layer.trainable
        rename(copy, layer.name)
        if is_convertible(layer):
            if layer.built:
                copy_state(layer, copy)
                pairs = (layer.gamma, copy.gamma), (layer.beta, copy.beta)
                same += [pair for pair in pairs if all(v is not None for v in pair)]
        else:
            same += copy_own_state(layer, copy)
    return same


def _replace_entry(entry, layer):
    """Makes a part of a config that of another layer; where it is in a model stays."""
    new = keras.layers.serialize(layer)
    new.pop("build_config", None)
    if not IS_KERAS_3:  # Its wrappers know classes by their registered names alone.
        new["class_name"] = keras.saving.get_registered_name(type(layer))
    entry.pop("build_config", None)
    entry.update(new)


def _name_of(entry):
    """The name of the layer that a part of a config is the config of, or None."""
    config = entry.get("config")
    return config.get("name") if isinstance(config, dict) and "class_name" in entry else None


def _first_line(error):
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0])
