"""One batch normalization layer as one of another class: its options, weights and statistics."""

import inspect
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from keras_norms.arguments import is_number, require
from keras_norms.keras_api import IS_KERAS_3, is_variable, keras
from keras_norms.layers.adaptive_batch_normalization import AdaptiveBatchNormalization
from keras_norms.layers.batch_normalization import BatchNormalization
from keras_norms.layers.batch_renormalization import BatchRenormalization
from keras_norms.layers.batchless_normalization import BatchlessNormalization
from keras_norms.layers.channels import argument_names
from keras_norms.layers.light_normalization import LightNormalization
from keras_norms.layers.range_batch_normalization import RangeBatchNormalization
from keras_norms.layers.regularized_batch_normalization import RegularizedBatchNormalization
from keras_norms.layers.stock_config import stock_config
from keras_norms.layers.sync_batch_normalization import SyncBatchNormalization
from keras_norms.models.conversion import (
    check_has_counterpart,
    input_shape_of,
    renorm_from_stock,
    renorm_to_stock,
)
from keras_norms.models.statistics_layers import kept_by, momentum_now
from keras_norms.schedules import momentum_at
from keras_norms.statistics.accumulation import window_weights

OURS = (
    BatchNormalization,
    SyncBatchNormalization,
    BatchRenormalization,
    RegularizedBatchNormalization,
    RangeBatchNormalization,
    LightNormalization,
    AdaptiveBatchNormalization,
    BatchlessNormalization,
)
STOCK = keras.layers.BatchNormalization
_OF_KERAS_2 = getattr(getattr(keras.layers, "experimental", None), "SyncBatchNormalization", None)
CONVERTIBLE = (*OURS, STOCK, *([_OF_KERAS_2] if _OF_KERAS_2 else []))
OWNER = "convert_batch_norm"
_MAY_BE_UNBIASED = BatchNormalization, SyncBatchNormalization, RegularizedBatchNormalization
# Options that every layer has.
_COMMON = "name", "trainable", "dtype"


def is_convertible(layer):
    """Whether a layer is a batch normalization of ours or of stock Keras.

    One that a user derived is not: what it does differently would be lost.
    """
    return type(layer) in CONVERTIBLE


def check_target(to, arguments, owner):
    """Raises unless `to` is a class that a layer can become, and takes these arguments."""
    names = ", ".join(kind.__name__ for kind in OURS)
    rule = f"`to` must be keras.layers.BatchNormalization or one of {names}"
    require(to in (*OURS, STOCK), owner, rule, to=getattr(to, "__name__", to))
    for name in arguments:
        rule = f"an argument must be one that {to.__name__} takes, for all layers alike"
        require(name in _options(to) and name not in _COMMON, owner, rule, argument=name)


def converted_layer(layer, to, arguments):
    """A layer as one of class `to`, built and with the state if `layer` is.

    Returns:
        The layer, and a note on what is not as before, or "".
    """
    if to is STOCK and isinstance(layer, OURS):
        check_has_counterpart(layer, OWNER)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        new, lost = _converted(layer, to, arguments)
    notes = [str(each.message).partition(": ")[2].rstrip(".") for each in caught]
    if lost:
        notes.append(f"without {', '.join(sorted(lost))}")
    for name in ("gamma", "beta"):
        if layer.built and getattr(layer, name) is not None and getattr(new, name) is None:
            notes.append(f"without its {name}")
    if to is STOCK and getattr(new, "renorm", False):
        notes.append("with renorm=True")
    if isinstance(layer, AdaptiveBatchNormalization) and not isinstance(new, type(layer)):
        notes.append("inference no longer mixes in the plain input")
    return new, "; ".join(notes)


def _converted(layer, to, arguments):
    is_stock = not isinstance(layer, OURS)
    if is_stock and getattr(layer, "renorm", False) and to is not STOCK:
        # What it computes in training stays.
        synchronized = layer.synchronized or to is SyncBatchNormalization
        return renorm_from_stock(layer, **{"synchronized": synchronized, **arguments}), ()
    if isinstance(layer, BatchRenormalization) and to is STOCK:
        new = renorm_to_stock(layer)
        return (_with_arguments(new, arguments), ()) if arguments else (new, ())
    new, lost = _unbuilt(layer, to, arguments)
    if layer.built:
        new.build(input_shape_of(layer))
        copy_state(layer, new)
    return new, lost


def _unbuilt(layer, to, arguments):
    config = layer.get_config()
    if not isinstance(layer, OURS) and to is not STOCK:
        config = stock_config(OWNER, config)
    if isinstance(layer, SyncBatchNormalization) or type(layer) is _OF_KERAS_2:
        config["synchronized"] = True
    if to is SyncBatchNormalization:
        config.pop("synchronized", None)
    is_moving = hasattr(layer, "momentum") and not is_number(layer.momentum)
    if to is STOCK and is_moving:
        now = momentum_now(layer) if layer.built else momentum_at(layer.momentum, 0)
        config["momentum"] = float(now)
    if to is STOCK and set(config.get("frozen", ())) == {"parameters", "statistics"}:
        config |= {"trainable": False, "frozen": ()}
    if _is_fused(layer) and to in _MAY_BE_UNBIASED:
        config["unbiased_moving_variance"] = True
    if to is STOCK and not IS_KERAS_3 and layer.built and layer.input_spec.ndim == 4:
        config.pop("unbiased_moving_variance", None)
    taken = _options(to)
    defaults = _options(type(layer))
    lost = {
        name: value
        for name, value in config.items()
        if name not in taken and not _is_neutral(name, value, defaults, layer)
    }
    if to is STOCK and is_moving:
        lost["a `momentum` that changes (it is that of the next step)"] = None
    config = {name: value for name, value in config.items() if name in taken}
    return to(**{**config, **arguments}), list(lost)


def _is_fused(layer):
    """Whether a layer is one of Keras 2 that divides by `n - 1` in the moving variance."""
    return not isinstance(layer, OURS) and bool(getattr(layer, "fused", False))


def _options(kind):
    """The arguments of a class, and their defaults."""
    if kind in OURS:
        names = argument_names(kind)
    else:
        names = _signature(kind)
    options = dict.fromkeys([*names, *_COMMON])
    for parent in reversed(kind.__mro__):
        for name, parameter in _signature(parent).items():
            if name in options and parameter.default is not parameter.empty:
                options[name] = parameter.default
    if kind in OURS:
        return options
    # What is false or for renorm alone in the config of a layer without it.
    return {**options, "renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99}


def _signature(kind):
    return inspect.signature(kind.__init__).parameters if "__init__" in vars(kind) else {}


def _is_neutral(name, value, defaults, layer):
    default = defaults.get(name)
    if isinstance(default, str) and isinstance(value, dict):  # An initializer.
        get = keras.initializers.get
        return type(get(value)) is type(get(default))
    return (not value and not default) or value == default  # Also () and [], False and 0.


def _with_arguments(layer, arguments):
    """A layer of the same class with some options changed."""
    new = type(layer).from_config({**layer.get_config(), **arguments})
    if layer.built:
        new.build(input_shape_of(layer))
        copy_state(layer, new)
    return new


def copy_state(source, target):
    """Copies weights and statistics of a built layer to one of another class.

    What the classes have in common is copied bit by bit. Otherwise the target gets the mean and
    the standard deviation that inference of the source divides by.
    """
    names = [name for name, value in vars(source).items() if is_variable(value)]
    names += ["gamma", "beta"]
    of_source, of_target = (len(window_weights(layer)) for layer in (source, target))
    if of_source != of_target or _stored_as(source) != _stored_as(target):
        # Batches that were accumulated of another kind cannot be merged with those to come.
        names = [name for name in names if not name.startswith("accumulated_")]
    for name in dict.fromkeys(names):
        one: Any = getattr(source, name, None)
        other: Any = getattr(target, name, None)
        if is_variable(one) and is_variable(other) and one.shape == other.shape:
            other.assign(_value(one))
    if _stored_as(source) != _stored_as(target):
        _assign_statistics(target, *_statistics(source))


def _stored_as(layer):
    """What the statistics' weights of a layer mean."""
    if isinstance(layer, BatchlessNormalization):
        return layer.parametrization, layer.learning_rate_multiplier
    return kept_by(layer).spread


def _statistics(layer):
    """The mean and what inference divides by: float64 arrays of the shape of the weights."""
    if isinstance(layer, BatchlessNormalization):
        mean, stddev = (np.asarray(value, np.float64) for value in layer.statistics)
        return mean, stddev
    kept = kept_by(layer)
    mean, spread = (_value(getattr(layer, name)).astype(np.float64) for name in kept.names)
    return mean, 1.0 / np.asarray(kept.inverse_stddev(tf.constant(spread), layer.epsilon))


def _assign_statistics(layer, mean, stddev):
    if isinstance(layer, BatchlessNormalization):
        layer.assign_statistics(mean, stddev)
        return
    name = kept_by(layer).spread
    spread = np.square(stddev) - layer.epsilon if name == "moving_variance" else stddev
    layer.moving_mean.assign(np.reshape(mean, layer.moving_mean.shape))
    getattr(layer, name).assign(np.reshape(np.maximum(spread, 0.0), layer.moving_mean.shape))


def _value(variable):
    return tf.convert_to_tensor(variable).numpy()
