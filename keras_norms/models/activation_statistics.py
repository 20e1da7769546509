"""Mean and variance of what layers of a model receive in inference, batch by batch."""

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import keras
from keras_norms.models.observed import ObservedModel
from keras_norms.statistics.moments import MOMENTS


class ActivationStatistics:
    """Collects counts, means and sums of squares of what layers receive, in inference mode.

    Args:
        model: a built Keras model.
        layers: `{name: layer}`.
        owner: for messages.
        remedy: what to do where a call cannot be reached, for the message.
    """

    def __init__(self, model, layers, owner, remedy):
        self._names = {layer: name for name, layer in layers.items()}
        self.model = model
        self._run = ObservedModel(
            model, list(self._names), self._moments, owner=owner, remedy=remedy
        )

    def _moments(self, calls):
        """Count, mean and sum of squares of each layer that runs, over all its calls."""
        self._order = list(dict.fromkeys(call.layer for call in calls))
        return [
            _merged([_moments_of(call) for call in calls if call.layer is layer])
            for layer in self._order
        ]

    def check(self, batch):
        """Raises an error where the model does not take such a batch."""
        self._run.trace(tf.nest.map_structure(tf.convert_to_tensor, batch))

    def collect(self, batches, verbose=0, progress=None):
        """Returns `{layer name: (counts, means, sums of squares)}`, each `[batches, channels]`."""
        progress = progress or keras.utils.Progbar(batches.size, verbose=verbose, unit_name="batch")
        found: dict[str, list] = {}
        for moments in self._run.over(batches, progress):
            for layer, parts in zip(self._order, moments, strict=True):
                found.setdefault(self._names[layer], []).append(parts)
        return {
            name: tuple(tf.stack(part).numpy() for part in zip(*batches_of, strict=True))
            for name, batches_of in found.items()
        }


def merged(parts):
    """Mean and variance over all batches, from their counts, means and sums of squares."""
    count, mean, m2 = (np.asarray(value) for value in MOMENTS.merge(tuple(map(tf.constant, parts))))
    return count, mean, m2 / np.where(count > 0, count, 1.0)


def _moments_of(call):
    x, weights, axis = call.view()
    (count, mean, m2), _ = MOMENTS.local(x, axis=axis, weights=weights, segment_size=None)
    return tf.broadcast_to(count, tf.shape(mean)), mean, m2


def _merged(parts):
    return MOMENTS.merge(tuple(map(tf.stack, zip(*parts, strict=True))))
