"""Converts stock Keras layers to ours and back, with their weights."""

import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from keras_norms.arguments import is_number, require
from keras_norms.keras_api import keras
from keras_norms.layers.batch_renormalization import BatchRenormalization
from keras_norms.models.statistics_layers import momentum_now
from keras_norms.printable import called, printable
from keras_norms.schedules import momentum_at, moves_after, value_at

# Options that stock layers do not have, and their values where they change nothing.
_OURS: dict[str, Any] = {
    "group_size": None,
    "virtual_batch_size": None,
    "unbiased_moving_variance": False,
    "skip_nonfinite_updates": False,
    "max_update": None,
    "accumulate_steps": 1,
    "clipping_metrics": False,
    "frozen": [],
    "activation": None,
}


def renorm_from_stock(layer, **arguments):
    """Converts a stock layer with `renorm=True` to a `BatchRenormalization`.

    Stock Keras keeps two sets of statistics: `renorm_*`, which training corrects towards, and
    `moving_*`, which inference uses. Here there is one. Where the two differ, `moving_*` is used,
    so that inference does not change, and a warning says so.

    Args:
        layer: a `keras.layers.BatchNormalization(renorm=True)`, built or not.
        **arguments: of `BatchRenormalization`, in place of what the layer's config says; limits
            that follow a schedule, for example.

    Returns:
        The new layer, built and with the weights if `layer` is. Its `step` is 0.

    Raises:
        ValueError: if `layer` is not a stock layer with `renorm=True`.

    Example (Keras 3.14 and newer, and Keras 2):

    >>> stock = tf.keras.layers.BatchNormalization(renorm=True, renorm_clipping=None)
    >>> keras_norms.conversion.renorm_from_stock(stock, r_max=3.0).r_max
    3.0
    """
    if not isinstance(layer, keras.layers.BatchNormalization) or not getattr(
        layer, "renorm", False
    ):
        raise ValueError(
            "renorm_from_stock: `layer` must be a keras.layers.BatchNormalization with "
            f"`renorm=True`. Received: {_described(layer)}."
        )
    config = layer.get_config()
    if "r_max" in arguments or "d_max" in arguments:
        config["renorm_clipping"] = None
    converted = BatchRenormalization.from_config(config)
    if arguments:
        converted = BatchRenormalization(**{**converted.get_config(), **arguments})
    if not layer.built:
        return converted
    converted.build(input_shape_of(layer))
    _copy(layer, converted, "gamma", "beta", "moving_mean", "moving_stddev")
    pairs = (("moving_mean", "renorm_mean"), ("moving_stddev", "renorm_stddev"))
    apart = max(np.max(np.abs(_value(layer, a) - _value(layer, b)), initial=0.0) for a, b in pairs)
    if apart > 1e-6 * np.max(np.abs(_value(layer, "moving_stddev")), initial=0.0):
        warnings.warn(
            f"renorm_from_stock: the two sets of statistics of '{printable(layer.name)}' differ by "
            f"up to {apart:.3g}; moving_mean and moving_stddev are used, renorm_mean and "
            "renorm_stddev are not.",
            stacklevel=2,
        )
    return converted


def renorm_to_stock(layer):
    """Converts a `BatchRenormalization` to a stock `BatchNormalization(renorm=True)`.

    Stock Keras takes numbers for limits, not schedules: it gets the values at the layer's step. A
    warning names schedules that have not ended, and options without a counterpart.

    Args:
        layer: a `BatchRenormalization`, built or not.

    Returns:
        The stock layer, built and with the weights if `layer` is.

    Raises:
        ValueError: if `layer` is not a `BatchRenormalization`, or has an activation or a residual.
        TypeError: where the installed Keras has no `renorm` (3.0 to 3.13).
    """
    if not isinstance(layer, BatchRenormalization):
        raise ValueError(
            "renorm_to_stock: `layer` must be a BatchRenormalization. "
            f"Received: {_described(layer)}."
        )
    check_has_counterpart(layer, "renorm_to_stock")
    config = layer.get_config()
    lost = [name for name, neutral in _OURS.items() if config.pop(name) != neutral]
    step = tf.convert_to_tensor(layer.step) if layer.built else tf.constant(0, tf.int64)
    limits = {
        "rmax": float(value_at(layer.r_max, step, 1.0)),
        "dmax": float(value_at(layer.d_max, step, 0.0)),
    }
    limits["rmin"] = 1.0 / limits["rmax"]
    for name in ("r_max", "d_max"):
        del config[name]
        if moves_after(getattr(layer, name), step):
            lost.append(f"the schedule of `{name}` (the limit is that of step {int(step)})")
    config["momentum"] = float(
        momentum_now(layer) if layer.built else momentum_at(layer.momentum, 0)
    )
    if not is_number(layer.momentum):
        lost.append("a `momentum` that changes (it is that of the next step)")
    if lost:
        warnings.warn(
            f"renorm_to_stock: stock Keras has no counterpart for {', '.join(lost)} of "
            f"'{printable(layer.name)}'.",
            stacklevel=2,
        )
    stock = keras.layers.BatchNormalization.from_config(
        {
            **config,
            "renorm": True,
            "renorm_clipping": {k: v for k, v in limits.items() if np.isfinite(v)},
            "renorm_momentum": config["momentum"],
        }
    )
    if not layer.built:
        return stock
    stock.build(input_shape_of(layer))
    _copy(layer, stock, "gamma", "beta", "moving_mean", "moving_stddev")
    variance = np.square(_value(layer, "moving_stddev").astype(np.float64)) - layer.epsilon
    stock.moving_variance.assign(np.maximum(variance, 0.0))
    stock.renorm_mean.assign(_value(layer, "moving_mean"))
    stock.renorm_stddev.assign(_value(layer, "moving_stddev"))
    return stock


def check_has_counterpart(layer, owner):
    """Raises for a layer of ours with an activation or a residual, which stock layers lack."""
    rule = (
        "stock layers have no activation and no residual: make them layers of their own with "
        "unfuse_activations first"
    )
    is_plain = layer.activation is None and not layer.takes_residual
    require(is_plain, owner, rule, layer=called(layer))


def input_shape_of(layer):
    rank = layer.input_spec.ndim
    axes = {int(axis) % rank: size for axis, size in layer.input_spec.axes.items()}
    return tuple(axes.get(axis) for axis in range(rank))


def _value(layer, name):
    return tf.convert_to_tensor(getattr(layer, name)).numpy()


def _copy(source, target, *names):
    for name in names:
        if getattr(source, name) is not None:
            getattr(target, name).assign(_value(source, name))


def _described(layer):
    renorm = getattr(layer, "renorm", None)
    return type(layer).__name__ + (f" with renorm={renorm}" if renorm is not None else "")
