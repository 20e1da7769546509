"""The argument `activation` of layers: what it may be, and which of them kernels compute."""

import math

import numpy as np

from keras_norms.arguments import require
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.ops.rectifier import Rectifier

RECTIFIERS = {
    "relu": Rectifier(),
    "relu6": Rectifier(cap=6.0),
    "leaky_relu": Rectifier(negative_slope=0.2),
}


def activation_of(activation, owner):
    """The argument as a function, or None for none.

    Raises:
        ValueError: if it is neither the name of an activation of Keras, nor a function, nor a
            `ReLU` or `LeakyReLU` layer.
    """
    rule = (
        "`activation` must be None, the name of a Keras activation, a function, or a `ReLU` or "
        "`LeakyReLU` layer"
    )
    if activation is None:
        return None
    try:
        found = keras.activations.get(activation)
    except Exception:  # Keras raises errors of many kinds.
        found = None
    is_layer = isinstance(found, keras.layers.Layer)
    is_known_layer = isinstance(found, (keras.layers.ReLU, keras.layers.LeakyReLU))
    is_function = callable(found) and not isinstance(found, type)
    require(is_function and is_layer == is_known_layer, owner, rule, activation=activation)
    return None if found is keras.activations.linear else found


def serialized(activation):
    """The config of an `activation_of`."""
    return None if activation is None else keras.activations.serialize(activation)


def rectifier_of(activation):
    """The `Rectifier` that computes the same as an `activation_of`, or None."""
    if isinstance(activation, keras.layers.LeakyReLU):
        name = "negative_slope" if IS_KERAS_3 else "alpha"
        return _rectifier(float(getattr(activation, name)))
    if isinstance(activation, keras.layers.ReLU):
        return None if activation.threshold else _of_relu(activation)
    for name, rectifier in RECTIFIERS.items():
        if activation is not None and activation is _named(name):
            return rectifier
    return None


def _of_relu(layer):
    slope = float(layer.negative_slope or 0.0)
    cap = math.inf if layer.max_value is None else float(layer.max_value)
    return _rectifier(slope, cap)


def _rectifier(negative_slope, cap=math.inf):
    """None for what is no `Rectifier`."""
    # Kernels have both in single precision.
    slope, bound = np.float32(negative_slope), np.float32(cap)
    is_one = slope >= 0.0 and np.isfinite(slope) and bound > 0.0
    is_one = is_one and (cap == math.inf or (np.isfinite(bound) and negative_slope == 0.0))
    return Rectifier(negative_slope, cap) if is_one else None


def _named(name):
    try:
        return keras.activations.get(name)
    except ValueError:
        return None
