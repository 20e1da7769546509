"""Layers with batch and moving statistics, ours and those of stock Keras."""

import tensorflow as tf

from keras_norms.keras_api import nested_layers
from keras_norms.printable import called
from keras_norms.schedules import momentum_at
from keras_norms.statistics.moving_statistics import KINDS


def named(layers):
    """Layers by their names; duplicate names are numbered."""
    by_name = {}
    for layer in layers:
        name, number = layer.name, 0
        while name in by_name:
            number += 1
            name = layer.name + f"_{number}"
        by_name[name] = layer
    return by_name


def batch_statistics_layers(model, owner):
    """All such layers of a built model, at any depth, by their names.

    Raises:
        ValueError: if there is none.
    """
    layers = named(layer for layer in nested_layers(model) if kept_by(layer))
    if not layers:
        raise ValueError(
            f"{owner}: the model must have a layer with batch statistics, such as a "
            f"BatchNormalization. Received: {called(model)} without."
        )
    return layers


def kept_by(layer):
    """The kind of moving statistics that a layer keeps, ours or of stock Keras, or None."""
    names = "moving_mean", "momentum", "axis", "epsilon"
    if not all(hasattr(layer, name) for name in names):
        return None
    return next((kind for kind in KINDS if hasattr(layer, kind.spread)), None)


def stored_statistics(layer):
    """What a layer keeps moving averages of, as they are now: float64 vectors."""
    return tuple(_vector(getattr(layer, name)) for name in kept_by(layer).names)


def momentum_now(layer):
    """The share of the old value that the next training call of a layer keeps."""
    step = getattr(layer, "step", None)
    return momentum_at(layer.momentum, None if step is None else tf.convert_to_tensor(step))


def mean_and_variance(layer, stored):
    """Mean and variance from stored statistics."""
    mean, spread = stored
    return mean, tf.maximum(kept_by(layer).variance(spread, layer.epsilon), 0.0)


def ratios_of_norms(mean, variance, moving_mean, moving_variance):
    """How far statistics are from the moving ones: `||mean - moving_mean|| / ||moving_stddev||`.

    The second is `||stddev - moving_stddev|| / ||moving_stddev||`. Of float64 `[..., channels]`.
    """
    stddev, moving_stddev = tf.sqrt(variance), tf.sqrt(moving_variance)
    norm = tf.norm(moving_stddev, axis=-1)
    return tuple(
        ratio(tf.norm(gap, axis=-1), norm) for gap in (mean - moving_mean, stddev - moving_stddev)
    )


def ratio(gap, scale):
    """0 where there is no gap, infinite where there is one and no scale."""
    return tf.where(gap == 0.0, tf.zeros_like(gap), gap / scale)


def _vector(variable):
    return tf.reshape(tf.cast(tf.convert_to_tensor(variable), tf.float64), [-1])
