"""How a model was compiled, and the state of its optimizer, for a copy of the model."""

import tensorflow as tf

from keras_norms.keras_api import is_variable
from keras_norms.printable import called, printable


def copy_compile_state(model, copy, variables):
    """Compiles a copy as the model is, with the state of its optimizer.

    Args:
        model: a Keras model, compiled or not.
        copy: a model with the same layers.
        variables: pairs of variables of the two that are the same weight.

    Returns:
        A list with a sentence for what could not be copied.
    """
    if getattr(model, "optimizer", None) is None:
        return []
    config = _with_names_of(copy, model, model.get_compile_config())
    try:
        _compile(copy, config, model.optimizer)
        reason = "Keras cannot read how the model was compiled"
    except Exception as error:
        copy.optimizer = None
        reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0])
    if getattr(copy, "optimizer", None) is None:
        return [f"the copy of {called(model)} is not compiled: {reason}"]
    _copy_optimizer(model.optimizer, copy.optimizer, variables, copy.trainable_variables)
    return []


def _with_names_of(copy, model, config):
    """A compile config in which dicts have the names of the copy's outputs.

    Where outputs are a dict themselves, its keys are their names.
    """
    if config is None or isinstance(getattr(model, "output", None), dict):
        return config
    pairs = zip(*(getattr(each, "output_names", None) or () for each in (model, copy)), strict=True)
    names = {old: new for old, new in pairs if old != new}

    def renamed(value):
        is_named = isinstance(value, dict) and not names.keys().isdisjoint(value)
        return {names.get(key, key): v for key, v in value.items()} if is_named else value

    return {key: renamed(value) for key, value in config.items()}


def _compile(copy, config, optimizer):
    try:
        copy.compile_from_config(config)
    except Exception:  # Keras cannot read all configs of optimizers that it writes.
        copy.compile_from_config({**config, "optimizer": "sgd"})
        copy.optimizer = copy._compile_config.config["optimizer"] = _unbuilt(optimizer)


def _unbuilt(optimizer):
    config, inner = optimizer.get_config(), getattr(optimizer, "inner_optimizer", None)
    if inner is None:
        return type(optimizer).from_config(config)
    del config["inner_optimizer"]
    return type(optimizer)(_unbuilt(inner), **config)


def _copy_optimizer(source, target, variables, trainable):
    """Copies what an optimizer keeps to one of the same class, weight by weight."""
    inner = getattr(source, "inner_optimizer", None)
    if inner is not None:  # `source` scales the loss.
        _copy_optimizer(inner, target.inner_optimizer, variables, trainable)
        holders = (getattr(each, "_loss_scale", each) for each in (source, target))
        _copy_scalars(*holders)
    elif hasattr(source, "get_slot_names"):
        _copy_named_slots(source, target, variables, trainable)
    else:
        _copy_exclusions(source, target, variables)
        if _places(source):  # It has been built.
            if not _places(target):
                target.build(trainable)
            _copy_scalars(source, target)
            _copy_slots(source, target, variables)


def _copy_scalars(source, target):
    for name, value in vars(source).items():
        if is_variable(value) and is_variable(getattr(target, name, None)):
            getattr(target, name).assign(tf.convert_to_tensor(value))


def _copy_slots(source, target, variables):
    """Lists of slots have the order of the trained weights, which may differ in the copy."""
    places, new_places = _places(source), _places(target)
    for name, slots in vars(source).items():
        is_slots = isinstance(slots, (list, tuple)) and len(slots) == len(places)
        if not is_slots or name in ("_variables", "_trainable_variables"):
            continue
        for old, new in variables:
            key, new_key = source._var_key(old), target._var_key(new)
            if key in places and new_key in new_places and is_variable(slots[places[key]]):
                slot = getattr(target, name)[new_places[new_key]]
                slot.assign(tf.convert_to_tensor(slots[places[key]]))


def _places(optimizer):
    """The index of each weight that an optimizer trains, by its key in Keras 3 and in Keras 2."""
    names = "_trainable_variables_indices", "_index_dict"
    return next((getattr(optimizer, name) for name in names if hasattr(optimizer, name)), {})


def _copy_exclusions(source, target, variables):
    """Weights that are kept from weight decay, which configs leave out."""
    keys = getattr(source, "_exclude_from_weight_decay", None)
    if keys:
        new_keys = (target._var_key(new) for old, new in variables if source._var_key(old) in keys)
        target._exclude_from_weight_decay = (set if isinstance(keys, set) else list)(new_keys)
    for name in ("_exclude_from_weight_decay_names", "_exclude_from_weight_decay_pattern"):
        if getattr(source, name, None):
            setattr(target, name, getattr(source, name))


def _copy_named_slots(source, target, variables, trainable):
    """Of optimizers of the older API of Keras 2, also those of tensorflow-addons."""
    if not source.weights:
        return
    target._create_all_weights(trainable)
    target.iterations.assign(source.iterations)
    for name in source.get_slot_names():
        for old, new in variables:
            try:
                slot = source.get_slot(old, name)
            except KeyError:  # The optimizer has not seen this weight.
                continue
            target.get_slot(new, name).assign(slot)
