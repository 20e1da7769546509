"""How far the statistics of batches are from those that inference uses."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import keras
from keras_norms.models.batches import InputBatches
from keras_norms.models.observed import ObservedModel
from keras_norms.models.statistics_layers import (
    batch_statistics_layers,
    mean_and_variance,
    ratio,
    ratios_of_norms,
    stored_statistics,
)
from keras_norms.statistics.moments import MOMENTS

CALLER = "training_inference_discrepancy"


class Discrepancy(NamedTuple):
    """The training-inference discrepancy (TID) of one layer, averaged over batches `B`.

    Attributes:
        mean: `E_B[||mean_B - moving_mean||] / ||moving_stddev||`, norms over channels.
        variance: `E_B[||stddev_B - moving_stddev||] / ||moving_stddev||`.
        channel_mean: `E_B[|moving_mean - mean_B| / stddev_B]`, of shape `(channels,)`. Its average
            is what the authors' code logs. Here and below `stddev_B` in the denominator is at
            least `sqrt(epsilon)` of the layer, the smallest value that the layer divides by.
        channel_variance: `E_B[|moving_stddev / stddev_B - 1|]`.
        batches: how many batches there were. Each virtual batch is one.
    """

    mean: float
    variance: float
    channel_mean: np.ndarray
    channel_variance: np.ndarray
    batches: int


def training_inference_discrepancy(model, data, *, batch_size=32, steps=None, verbose=1):
    """Measures how far the statistics of batches are from the moving ones, layer by layer.

        mean TID     = E_B[||mean_B - moving_mean||_2]     / ||moving_stddev||_2
        variance TID = E_B[||stddev_B - moving_stddev||_2] / ||moving_stddev||_2

    Training normalizes by the batch, inference by the moving statistics: where the two differ
    much, a model that trains well does badly in inference. `mean_B` and `stddev_B` are the
    statistics of what a layer receives in training mode, without masked positions. Every layer with
    batch statistics is measured, stock Keras layers included. A layer that normalizes by ranges
    is measured by `stddev_B` all the same, so that the variance TID means something only where its
    `range_constant` is "calibrated". The model runs over the data once, in
    one graph, without waiting for the device in between. State that training changes, such as the
    moving statistics, is restored afterwards.

    Use it on a trained model, with the batches of training: the discrepancy depends on how large
    they are. Not on a model whose moving statistics have not settled yet. During training,
    `callbacks.TrainingInferenceDiscrepancy` costs less.

    Args:
        model: a Keras model.
        data: an array, a tensor, or a list or dict of them for several inputs; or a
            `tf.data.Dataset` or another iterable of batches that can be read again. Of a batch
            that is a tuple, the first element is the input.
        batch_size: the size of a batch where `data` are arrays. Defaults to `32`.
        steps: None, or how many batches to read at most. Defaults to `None`.
        verbose: 1 shows a progress bar, 0 does not. Defaults to `1`.

    Returns:
        `{layer name: Discrepancy}`. Duplicate names are numbered. Layers that the model does not
        run, and those without a batch in which anything counts, are left out.

    Raises:
        ValueError: if the model has no such layer, one runs inside a `tf.cond` or a loop, or the
            data is empty or does not fit the model. The model is unchanged then.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(name="norm")])
    >>> found = keras_norms.diagnostics.training_inference_discrepancy(
    ...     model, np.array([[1.0], [3.0]]), verbose=0
    ... )
    >>> found["norm"].mean, found["norm"].variance  # mean 2 and stddev 1, against 0 and 1
    (2.0, 0.0)

    Reference:
        Wang, Wu and Huang, 2022, https://arxiv.org/abs/2210.05153.
    """
    batches = InputBatches(data, batch_size, steps, CALLER)
    batches.build(model)
    layers = batch_statistics_layers(model, CALLER)
    moving = {
        layer: mean_and_variance(layer, stored_statistics(layer)) for layer in layers.values()
    }
    order: list[Any] = []

    def compute(calls):
        order[:] = list(dict.fromkeys(call.layer for call in calls))
        parts: dict[Any, list] = {layer: [] for layer in order}
        for call in calls:
            parts[call.layer].append(_sums_over_batches(call, *moving[call.layer]))
        return [[tf.add_n(values) for values in zip(*parts[layer], strict=True)] for layer in order]

    remedy = "Measure a model without it."
    run = ObservedModel(model, list(moving), compute, training=True, owner=CALLER, remedy=remedy)
    progress = keras.utils.Progbar(batches.size, verbose=verbose, unit_name="batch")
    totals: Any = None  # At least one batch is there.
    for sums in run.over(batches, progress):
        totals = sums if totals is None else tf.nest.map_structure(tf.add, totals, sums)
    names = {layer: name for name, layer in layers.items()}
    found = {}
    for layer, values in zip(order, totals, strict=True):
        count, *sums = (value.numpy() for value in values)
        if count > 0:
            mean, variance, channel_mean, channel_variance = (value / count for value in sums)
            found[names[layer]] = Discrepancy(
                float(mean), float(variance), channel_mean, channel_variance, int(count)
            )
    return found


def ratios_by_channel(mean, variance, moving_mean, moving_variance, epsilon):
    """Both ratios in standard deviations of the batch, channel by channel, `[..., channels]`."""
    # The smallest value that the layer divides by: a constant channel has no discrepancy.
    stddev = tf.sqrt(tf.maximum(variance, epsilon))
    return tuple(
        ratio(tf.abs(gap), stddev)
        for gap in (mean - moving_mean, tf.sqrt(variance) - tf.sqrt(moving_variance))
    )


def _sums_over_batches(call, moving_mean, moving_variance):
    """How many batches a call has, and the terms added up over them."""
    x, weights, axis = call.view()
    segment_size = getattr(call.layer, "virtual_batch_size", None)
    options = dict(axis=axis, weights=weights, segment_size=segment_size)
    (count, mean, m2), _ = MOMENTS.local(x, **options)
    variance = tf.math.divide_no_nan(m2, count)
    if segment_size is None:
        count, mean, variance = (value[tf.newaxis] for value in (count, mean, variance))
    counts = tf.reduce_any(count > 0.0, -1)
    four = mean, variance, moving_mean, moving_variance
    found = *ratios_of_norms(*four), *ratios_by_channel(*four, call.layer.epsilon)
    return tf.reduce_sum(tf.cast(counts, tf.float64)), *(
        tf.reduce_sum(tf.boolean_mask(value, counts), 0) for value in found
    )
