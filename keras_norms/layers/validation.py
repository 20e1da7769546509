"""Arguments that layers accept, checked at construction, one sentence a rule."""

import numbers
import warnings


def check_arguments(layer, owner):
    """Raises ValueError for an argument of `layer` that breaks its rule."""

    def require(rule, name, holds):
        value = getattr(layer, name)
        if not holds(value):
            raise ValueError(f"{owner}: {rule}. Received: {name}={value!r}.")

    require("`axis` must be an int or a list of ints", "axis", _is_axis)
    require("`momentum` must be a number in [0, 1]", "momentum", lambda v: _is_number(v, 0, 1))
    require("`epsilon` must be a finite number, at least 0", "epsilon", lambda v: _is_number(v, 0))
    require("`max_update` must be a positive number or None", "max_update", _is_positive_or_none)
    for name in ("group_size", "virtual_batch_size"):
        require(f"`{name}` must be a positive int or None", name, _is_size_or_none)
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


def stock_config(owner, config):
    """Translates what stock Keras writes into the config of a `BatchNormalization`.

    Raises:
        ValueError: for options of stock Keras that are another layer here, or none.
    """
    config = dict(config)
    if config.pop("renorm", False):
        raise ValueError(
            f"{owner}: a config with `renorm=True` is one of BatchRenormalization. "
            f"Received: renorm=True for {config.get('name')!r}."
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


def _is_int(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_axis(value):
    values = value if isinstance(value, (list, tuple)) else [value]
    return len(values) > 0 and all(_is_int(v) for v in values)


def _is_number(value, low, high=float("inf")):
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and low <= value <= high and value < float("inf")


def _is_positive_or_none(value):
    return value is None or (_is_number(value, 0) and value > 0)


def _is_size_or_none(value):
    return value is None or (_is_int(value) and value > 0)
