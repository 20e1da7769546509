"""Synchronized layers of parallel branches, with one exchange for all of them."""

import dataclasses

import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.keras_api import keras
from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.layers.keras_2 import registered
from keras_norms.printable import called
from keras_norms.statistics.normalize import normalize_together


@registered
class SyncBranches(keras.layers.Layer):
    """Calls synchronized layers that do not depend on each other, with the collectives of one.

        y_i = layers[i](x_i)

    Each exchange between replicas costs mostly waiting. The branches of a block, as in
    Inception or in towers, can wait together: one all-reduce forward and one backward for all of
    them. What every layer computes and remembers is as if it were called by itself.

    Use it under `tf.distribute` for the normalizations of parallel branches. Not for layers of a
    chain, where one needs the output of the other. Layers other than `SyncBatchNormalization` and
    `BatchNormalization(synchronized=True)`, or with a mask, `skip_nonfinite_updates`,
    `unbiased_moving_variance` and the like, are called one after the other; the result is the same.
    Functions that rewrite models, such as `convert_batch_norm`, do not look into it.

    Args:
        layers: at least two layers with `synchronized=True` and the same `group_size`. They belong
            to this layer then, and are built with it.
        **kwargs: `name`, `dtype` and `trainable`, as of every Keras layer.

    Call arguments:
        inputs: a list of activations, one for each layer.
        training: as of the layers.

    Raises:
        ValueError: if the layers are not as described, or there is not an input for each.

    Example:

    >>> layer = keras_norms.SyncBranches(
    ...     [keras_norms.SyncBatchNormalization(), keras_norms.SyncBatchNormalization()]
    ... )
    >>> a, b = layer([tf.ones((4, 2)), tf.ones((4, 3))], training=True)
    >>> b.shape
    TensorShape([4, 3])
    """

    def __init__(self, layers, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        owner = called(self)
        is_list = isinstance(layers, (list, tuple)) and len(layers) > 1
        rule = "`layers` must be a list of at least two layers with synchronized=True"
        require(is_list, owner, rule, layers=layers)
        for layer in layers:
            fits = isinstance(layer, BatchNormalizationBase) and layer.synchronized
            require(fits, owner, rule, layer=layer)
        rule = "`layers` must all have the same `group_size`, and each of them its own variables"
        sizes = {layer.group_size for layer in layers}
        is_same = len(sizes) == 1 and len({id(layer) for layer in layers}) == len(layers)
        require(is_same, owner, rule, layers=[called(layer) for layer in layers])
        self.layers = list(layers)
        self.supports_masking = True

    def build(self, input_shape):
        # The shape of a single activation is a list, too, but one of sizes.
        shapes = (list, tuple, tf.TensorShape)
        is_list = all(isinstance(shape, shapes) for shape in input_shape)
        self._check(input_shape if is_list else None)
        for layer, shape in zip(self.layers, input_shape, strict=True):
            if not layer.built:
                layer.build(tuple(shape))
        self.built = True

    def call(self, inputs, training=None, mask=None):
        self._check(inputs)
        masks = mask if isinstance(mask, (list, tuple)) else [mask] * len(inputs)
        begun = [
            layer.begin(x, training, of_x)
            for layer, x, of_x in zip(self.layers, inputs, masks, strict=True)
        ]
        group = dataclasses.replace(self.layers[0].replica_group, owner=called(self))
        return normalize_together(begun, group)

    def compute_mask(self, inputs, mask=None):
        return mask

    def compute_output_shape(self, input_shape):
        return [tuple(shape) for shape in input_shape]

    def get_config(self):
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config):
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})

    def _check(self, inputs):
        is_list = isinstance(inputs, (list, tuple))
        count = len(inputs) if is_list else type(inputs).__name__
        rule = f"`inputs` must be a list of {len(self.layers)} activations, one for each layer"
        require(is_list and count == len(self.layers), called(self), rule, inputs=count)
