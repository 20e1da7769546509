"""Statistics of `BatchlessNormalization` layers, taken from data before training."""

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import keras, nested_layers
from keras_norms.layers.batchless_normalization import BatchlessNormalization
from keras_norms.models.activation_statistics import ActivationStatistics, merged
from keras_norms.models.batches import InputBatches
from keras_norms.models.strata import strata
from keras_norms.printable import called, printable

CALLER = "initialize_statistics"
REMEDY = "Use `assign_statistics` for it."


def initialize_statistics(model, data, *, batch_size=32, steps=None, verbose=1):
    """Sets mean and standard deviation of every `BatchlessNormalization` layer from data.

    A layer's statistics are those of its inputs once all layers before it are initialized. So the
    layers are sorted into strata, each of which depends on earlier ones only, and `data` is read
    once for every stratum, the model running in inference mode. Masked
    positions are left out, and batches may differ in size.

    Use it before training, with the data of training: a few hundred instances give good
    statistics. A channel whose standard deviation is not above the layer's `epsilon`, a constant
    one for example, gets 1.

    Args:
        model: a Keras model or layer.
        data: an array, a tensor, or a list or dict of them for several inputs; or a
            `tf.data.Dataset` or another iterable of batches that can be read again. Of a batch
            that is a tuple, the first element is the input.
        batch_size: the size of a batch where `data` are arrays. Defaults to `32`.
        steps: None, or how many batches to read at most. Defaults to `None`.
        verbose: 1 shows a progress bar, 0 does not. Defaults to `1`.

    Returns:
        The strata: a list of lists of layers.

    Raises:
        ValueError: if the model has no such layer, or one runs inside a `tf.cond` or a loop; if the
            data is empty, cannot be read again, or leads to statistics that are not finite. The
            model is unchanged then.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras_norms.BatchlessNormalization()])
    >>> strata = keras_norms.initialize_statistics(model, np.array([[1.0, 0.0], [3.0, 4.0]]),
    ...                                            verbose=0)
    >>> model.layers[0].statistics.mean.numpy(), model.layers[0].statistics.stddev.numpy()
    (array([2., 2.], dtype=float32), array([1., 2.], dtype=float32))

    Reference:
        Berger and Uc Cetina, 2022, https://arxiv.org/abs/2212.14729.
    """
    batches = InputBatches(data, batch_size, steps, CALLER)
    first = batches.build(model)
    layers = [layer for layer in nested_layers(model) if isinstance(layer, BatchlessNormalization)]
    before = [[tf.identity(w) for w in layer.statistics_weights] for layer in layers if layer.built]
    found = strata(model, layers, first, CALLER, REMEDY)
    if not found:
        raise ValueError(
            f"{CALLER}: the model must run at least one BatchlessNormalization layer. "
            f"Received: {called(model)} without."
        )
    total = batches.size * len(found)
    progress = keras.utils.Progbar(total, verbose=verbose, unit_name="batch")
    try:
        for stratum in found:
            for layer, (mean, stddev) in _statistics(model, stratum, batches, progress):
                layer.assign_statistics(mean, stddev)
    except BaseException:
        for layer, values in zip((lr for lr in layers if lr.built), before, strict=True):
            for weight, value in zip(layer.statistics_weights, values, strict=True):
                weight.assign(value)
        raise
    return found


def _statistics(model, stratum, batches, progress):
    """Mean and standard deviation of what the layers of a stratum receive."""
    layers = dict(enumerate(stratum))
    run = ActivationStatistics(model, layers, CALLER, REMEDY)
    for number, parts in run.collect(batches, progress=progress).items():
        layer = layers[number]
        count, mean, variance = merged(parts)
        if not (count > 1).all():
            raise ValueError(
                f"{CALLER}: `data` must hold at least two values for every channel of layer "
                f"'{printable(layer.name)}'. Received: {count.min():g}."
            )
        stddev = np.sqrt(variance)
        if not (np.isfinite(mean).all() and np.isfinite(stddev).all()):
            channel = int(np.argmin(np.isfinite(mean) & np.isfinite(stddev)))
            raise ValueError(
                f"{CALLER}: `data` must lead to finite statistics. Received: mean "
                f"{mean[channel]:g} and standard deviation {stddev[channel]:g} in channel "
                f"{channel} of layer '{printable(layer.name)}'."
            )
        yield layer, (mean, np.where(stddev > layer.epsilon, stddev, 1.0))
