"""Arguments that layers accept, checked at construction, one sentence a rule."""

import numbers
import warnings

import numpy as np
import tensorflow as tf


def require(layer, owner, rule, name, holds):
    """Raises ValueError if the argument of this name breaks its rule."""
    value = getattr(layer, name)
    if not holds(value):
        raise ValueError(f"{owner}: {rule}. Received: {name}={value!r}.")


def check_shared_arguments(layer, owner):
    """Raises ValueError for an argument that all layers take and that breaks its rule."""
    rule = "`epsilon` must be a finite number, at least 0"
    require(layer, owner, "`axis` must be an int or a list of ints", "axis", _is_axis)
    require(layer, owner, rule, "epsilon", lambda v: is_number(v, 0))
    for name in ("center", "scale"):
        require(layer, owner, f"`{name}` must be a bool", name, _is_bool)


def check_arguments(layer, owner):
    """Raises ValueError for an argument of a batch-statistics layer that breaks its rule."""
    rule = "`momentum` must be a number in [0, 1]"
    require(layer, owner, rule, "momentum", lambda v: is_number(v, 0, 1))
    rule = "`max_update` must be a positive number or None"
    require(layer, owner, rule, "max_update", _is_positive_or_none)
    for name in ("group_size", "virtual_batch_size"):
        require(layer, owner, f"`{name}` must be a positive int or None", name, _is_size_or_none)
    for name in ("synchronized", "unbiased_moving_variance", "skip_nonfinite_updates"):
        require(layer, owner, f"`{name}` must be a bool", name, _is_bool)
    if layer.max_update is not None and not layer.epsilon > 0:
        raise ValueError(
            f"{owner}: `max_update` needs an `epsilon` above 0, since a stored variance of 0 would "
            f"bound all updates to nothing. Received: epsilon={layer.epsilon}."
        )
    if layer.group_size is not None and not layer.synchronized:
        raise ValueError(
            f"{owner}: `group_size` needs `synchronized=True`. "
            f"Received: group_size={layer.group_size}, synchronized={layer.synchronized}."
        )
    if layer.virtual_batch_size is not None and layer.synchronized:
        raise ValueError(
            f"{owner}: virtual batches split the batch of a replica, so `virtual_batch_size` "
            "cannot be synchronized. "
            f"Received: virtual_batch_size={layer.virtual_batch_size}, synchronized=True."
        )


def check_batchless_arguments(layer, parametrizations, owner):
    """Raises ValueError for an argument of a `BatchlessNormalization` that breaks its rule."""
    names = ", ".join(map(repr, parametrizations))
    rule = f"`parametrization` must be one of {names}"
    require(layer, owner, rule, "parametrization", lambda v: v in tuple(parametrizations))
    rule = "`nll_weight` must be a finite number, at least 0"
    require(layer, owner, rule, "nll_weight", lambda v: is_number(v, 0))
    rule = "`learning_rate_multiplier` must be a finite number above 0"
    require(layer, owner, rule, "learning_rate_multiplier", lambda v: is_number(v, 0) and v > 0)
    rule = "`monitor` must be None or a number in [0, 1)"
    require(layer, owner, rule, "monitor", lambda v: v is None or (is_number(v, 0, 1) and v < 1))


def checked_flag(value, name, owner):
    """`value` as a bool; ValueError if it is none."""
    if not _is_bool(value):
        raise ValueError(f"{owner}: `{name}` must be a bool. Received: {name}={value!r}.")
    return bool(value)


def stock_config(owner, config):
    """Translates what stock Keras writes into the config of a `BatchNormalization`.

    Raises:
        ValueError: for options of stock Keras that are another layer here, or none.
    """
    config = dict(config)
    if config.pop("renorm", False):
        raise ValueError(
            f"{owner}: a config with `renorm=True` is one of BatchRenormalization. "
            f"Received: renorm=True in the config of {config.get('name', 'a layer')!r}."
        )
    config.pop("renorm_clipping", None)
    config.pop("renorm_momentum", None)
    if config.pop("adjustment", None) is not None:
        raise ValueError(
            f"{owner}: `adjustment` of Keras 2 has no counterpart. "
            f"Received: an adjustment for {config.get('name')!r}."
        )
    if config.pop("fused", None):
        warnings.warn(
            f"{owner}: `fused` is ignored; the fastest kernels are always used.", stacklevel=3
        )
    axis = config.get("axis")
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        config["axis"] = axis[0]
    return config


def renorm_config(owner, config):
    """Translates a stock config with `renorm=True` into one of a `BatchRenormalization`.

    Stock Keras keeps a second momentum, for what inference uses, and a least r of its own; both
    are as in the paper here, and a warning says so where that changes something.
    """
    config = dict(config)
    if not config.pop("renorm", False):
        if "renorm_momentum" in config:
            raise ValueError(
                f"{owner}: a stock config must have `renorm=True`; without it, it is one of "
                f"BatchNormalization. Received: the config of {config.get('name', 'a layer')!r}."
            )
        return config
    clipping = dict(config.pop("renorm_clipping", None) or {})
    r_max = config["r_max"] = clipping.get("rmax", float("inf"))
    config["d_max"] = clipping.get("dmax", float("inf"))
    momentum = config.pop("renorm_momentum", 0.99)
    if momentum != config.get("momentum", 0.99):
        warnings.warn(
            f"{owner}: one momentum serves training and inference; `momentum` "
            f"{config.get('momentum', 0.99)} is used, `renorm_momentum` {momentum} is not.",
            stacklevel=3,
        )
    if clipping.get("rmin", 0.0) not in (0.0, 1.0 / r_max) or (
        "rmin" not in clipping and "rmax" in clipping
    ):
        warnings.warn(
            f"{owner}: r is clipped to [1 / r_max, r_max]; rmin={clipping.get('rmin', 0.0)} is "
            "not used.",
            stacklevel=3,
        )
    return config


def real_tensor(value, name, owner):
    """`value` as a dense tensor of real numbers and known rank.

    Raises:
        ValueError: if it is none.
    """
    rule = f"{owner}: `{name}` must be a dense tensor of real numbers with known rank"
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{rule}. Received: {type(value).__name__}.") from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise ValueError(f"{rule}. Received: dtype={tensor.dtype.name}.")
    if tensor.shape.rank is None:
        raise ValueError(f"{rule}. Received: a tensor of unknown rank.")
    return tensor


def static_if_possible(training, owner):
    """`training` as a Python bool, or as a scalar bool tensor whose value is not known yet.

    Raises:
        ValueError: if it is neither a bool nor a scalar tensor.
    """
    if training is None or _is_bool(training):
        return bool(training)
    if not tf.is_tensor(training) or training.shape.rank != 0 or training.dtype == tf.string:
        raise ValueError(
            f"{owner}: `training` must be a bool or a scalar tensor. Received: {training!r}."
        )
    training = tf.cast(tf.convert_to_tensor(training), tf.bool)
    value = tf.get_static_value(training)
    return training if value is None else bool(value)


def plain(value):
    """What JSON can hold: lists for Keras 2's list wrappers, Python numbers for NumPy's."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return value.item() if isinstance(value, np.generic) else value


def _is_bool(value):
    return isinstance(value, (bool, np.bool_)) or (_is_int(value) and value in (0, 1))


def _is_int(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_axis(value):
    values = value if isinstance(value, (list, tuple)) else [value]
    return len(values) > 0 and all(_is_int(v) for v in values)


def is_number(value, low, high=float("inf")):
    """Whether `value` is a real number in [low, high] that a float can hold."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        value = float(value)
    except OverflowError:
        return False
    return low <= value <= high and value < float("inf")


def _is_positive_or_none(value):
    return value is None or (is_number(value, 0) and value > 0)


def _is_size_or_none(value):
    return value is None or (_is_int(value) and value > 0)
