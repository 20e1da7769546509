"""What a normalization computes in inference, per channel: a scale and an offset."""

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import keras
from keras_norms.layers.batchless_normalization import BatchlessNormalization
from keras_norms.layers.channels import ChannelNormalization
from keras_norms.layers.light_normalization import LightNormalization
from keras_norms.models.statistics_layers import kept_by
from keras_norms.statistics.moving_statistics import MOVING_VARIANCE


def is_normalization(layer):
    """Whether a layer normalizes channels by statistics that it keeps."""
    return isinstance(layer, ChannelNormalization) or kept_by(layer) is not None


def why_no_affine(layer):
    """Why what a normalization computes in inference is no scale and offset, or None."""
    layer_class = type(layer)
    is_ours = layer_class.__module__.startswith("keras_norms.")
    if not is_ours and layer_class is not keras.layers.BatchNormalization:
        return f"its class, {layer_class.__name__}, may compute something else"
    if isinstance(layer, LightNormalization) and layer.rounds:
        return "it rounds in inference"
    return None


def inference_affine(layer):
    """Float64 vectors: inference is `scale * x + offset`."""
    scale, center, shift = _vectors(layer)
    offset = -scale * center
    return np.asarray(scale), np.asarray(offset if shift is None else offset + shift)


def _vectors(layer):
    """Scale, center and shift, by the layer's own rule."""
    if not isinstance(layer, ChannelNormalization):
        parameters = {name: getattr(layer, name, None) for name in ("gamma", "beta")}
        gamma, beta = (None if v is None else _exact(v) for v in parameters.values())
        scale = MOVING_VARIANCE.inverse_stddev(_exact(layer.moving_variance), layer.epsilon)
        scale = scale if gamma is None else gamma * scale
        return scale, _exact(layer.moving_mean), beta
    parameters = {name: _exact(value) for name, value in layer._read_parameters().items()}
    if isinstance(layer, BatchlessNormalization):
        mean, _, inverse_stddev = layer._read_statistics(tf.float64)
        return layer._affine(mean, inverse_stddev, **parameters)
    state = {name: _exact(value) for name, value in layer._read_state().items()}
    return layer._inference_affine(state, **parameters)


def _exact(value):
    return tf.reshape(tf.cast(tf.convert_to_tensor(value), tf.float64), [-1])
