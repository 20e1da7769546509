"""Layers with statistics of batches and moving ones, ours and those of stock Keras."""

import tensorflow as tf

from keras_norms.keras_api import nested_layers


def named(layers):
    """Layers by their names; a name that is there before gets a number."""
    by_name = {}
    for layer in layers:
        name, number = layer.name, 0
        while name in by_name:
            number += 1
            name = f"{layer.name}_{number}"
        by_name[name] = layer
    return by_name


def batch_statistics_layers(model, owner):
    """Those of a model that is built, at any depth, by their names.

    Raises:
        ValueError: if there is none.
    """
    layers = named(layer for layer in nested_layers(model) if _keeps_moving_statistics(layer))
    if not layers:
        raise ValueError(
            f"{owner}: the model must have a layer with batch statistics, such as a "
            f"BatchNormalization. Received: {type(model).__name__} '{model.name}' without."
        )
    return layers


def _keeps_moving_statistics(layer):
    names = "moving_mean", "momentum", "axis", "epsilon"
    spreads = "moving_variance", "moving_stddev"
    return all(hasattr(layer, n) for n in names) and any(hasattr(layer, n) for n in spreads)


def stored_statistics(layer):
    """What a layer keeps moving averages of, as they are now: float64 vectors."""
    spread = layer.moving_variance if _averages_variances(layer) else layer.moving_stddev
    return _vector(layer.moving_mean), _vector(spread)


def mean_and_variance(layer, stored):
    """The mean and the variance that stored statistics stand for."""
    mean, spread = stored
    if _averages_variances(layer):
        return mean, tf.maximum(spread, 0.0)
    return mean, tf.maximum(tf.square(spread) - layer.epsilon, 0.0)


def _averages_variances(layer):
    return hasattr(layer, "moving_variance")


def _vector(variable):
    return tf.reshape(tf.cast(tf.convert_to_tensor(variable), tf.float64), [-1])
