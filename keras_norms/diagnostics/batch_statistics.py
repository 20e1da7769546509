"""Layers with statistics of batches and moving ones, ours and those of stock Keras."""

import tensorflow as tf

from keras_norms.layers.keras_api import nested_layers


def batch_statistics_layers(model, owner):
    """Those of a model, at any depth, by their names; a name that is there twice gets a number.

    Raises:
        ValueError: if there is none.
    """
    named = {}
    for layer in nested_layers(model):
        if _keeps_moving_statistics(layer):
            name, number = layer.name, 0
            while name in named:
                number += 1
                name = f"{layer.name}_{number}"
            named[name] = layer
    if not named:
        raise ValueError(
            f"{owner}: `model` must have a layer with batch statistics, such as a "
            f"BatchNormalization. Received: {type(model).__name__} '{model.name}' without."
        )
    return named


def _keeps_moving_statistics(layer):
    is_built = hasattr(layer, "moving_mean") and hasattr(layer, "momentum")
    return is_built and (hasattr(layer, "moving_variance") or hasattr(layer, "moving_stddev"))


def moving_statistics(layer):
    """The moving mean and variance of a layer as they are now, float64 vectors."""
    if hasattr(layer, "moving_variance"):
        mean, variance = map(_vector, (layer.moving_mean, layer.moving_variance))
        return mean, variance
    mean, stddev = map(_vector, (layer.moving_mean, layer.moving_stddev))
    return mean, tf.maximum(tf.square(stddev) - layer.epsilon, 0.0)


def _vector(variable):
    return tf.reshape(tf.cast(tf.convert_to_tensor(variable), tf.float64), [-1])
