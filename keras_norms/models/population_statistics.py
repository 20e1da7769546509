"""Moving statistics taken anew from data: those of the whole population, after training."""

import contextlib
import dataclasses
import warnings

import numpy as np
import tensorflow as tf

from keras_norms.arguments import is_bool, require
from keras_norms.keras_api import keras, on_replicas, state_kept_on_error
from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.models.batches import InputBatches
from keras_norms.models.observed import ObservedModel
from keras_norms.models.statistics_layers import (
    batch_statistics_layers,
    kept_by,
    mean_and_variance,
    ratios_of_norms,
    stored_statistics,
)
from keras_norms.models.strata import strata
from keras_norms.printable import printable
from keras_norms.statistics.accumulation import window_weights
from keras_norms.statistics.moments import MOMENTS
from keras_norms.statistics.moving_average import LARGEST, MovingAverage

CALLER = "recompute_statistics"
REMEDY = "Freeze it by `freeze_batch_norm`: it then keeps its statistics."
MERGED_AT_ONCE = 64  # Batches, so that memory does not grow with the data.


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """What `recompute_statistics` did to one layer.

    Attributes:
        count: how many values there were behind each mean, or the sum of their weights.
        mean_shift: `||mean - old mean|| / ||old stddev||`, norms over channels: how far the moving
            mean moved. It is the mean TID of `diagnostics.training_inference_discrepancy`, of all
            data as one batch.
        stddev_shift: `||stddev - old stddev|| / ||old stddev||`.
    """

    count: float
    mean_shift: float
    stddev_shift: float


def recompute_statistics(model, data, steps=None, *, batch_size=32, sequential=False, verbose=1):
    """Replaces all moving statistics of a model by those of its activations over `data`.

    In training, moving statistics average over batches that earlier weights have seen. This takes
    them anew, with the weights as they are: the moving statistics of each layer become what one
    training step with momentum 0 would store if its batch were all of `data`. Batches are merged
    exactly, in float64, whatever their sizes; what a mask leaves out does not count. It is also
    called precise batch normalization.

    While the data is read, the model runs in inference mode: no dropout, no losses, no step
    counted. Only the layers with moving statistics differ:

        sequential=False   each of them normalizes with the statistics of the batch in the place of
                           its moving ones, without virtual batches or a correction towards the
                           moving ones. One pass over the data. Later layers see about what they
                           do in training, which depends on the batch size: give that of training,
                           or a larger one.
        sequential=True    layer after layer in the order of the data flow: those that are done
                           normalize with their new statistics. Later layers see what they will in
                           inference, and the batch size does not matter. One pass for each group of
                           layers that do not depend on each other, up to that group: a chain of L
                           layers costs about L / 2 times as much, and the model is traced L times.

    Recomputed are the layers of this package that take statistics of batches and
    `keras.layers.BatchNormalization`, at any depth; of a layer that is called several times, over
    all its calls. What each stores:

        moving_mean, moving_variance   mean and population variance, also in stock layers; with
                                       `unbiased_moving_variance`, corrected for all of the data
        moving_stddev                  sqrt(variance + epsilon). Stock layers with `renorm=True` get
                                       `moving_variance`, `renorm_mean` and `renorm_stddev` too
        moving_scale                   the average over the chunks of all batches of `C(n) * range`,
                                       plus epsilon, as on replicas: chunks are those of batches,
                                       so that batches should be as large as in training
        LightNormalization             those of the inputs as rounded to its format
        AdaptiveBatchNormalization     mean and variance over all data. Its gate, a record of
                                       training, stays: `moving_sample_mean`, `moving_open_share`

    Layers with `trainable = False`, or whose statistics are frozen by `freeze_batch_norm`, keep
    them and normalize with them, as in training. With `accumulate_steps` a new window begins.

    Use it after weights were averaged (SWA, EMA), since averaged weights have no moving statistics
    of their own; after training with a large momentum or few steps; and on unlabelled data of
    another domain, to adapt a model to it. Not on a few dozen instances, whose statistics are far
    from those of all, and not on data in which classes have other shares than later. Measure the
    accuracy before and after: docs/guides/recomputing-statistics.md shows how.

    Under `tf.distribute` call it outside of `strategy.run` with all of the data: the model runs on
    one device, and each replica gets the same statistics.

    Args:
        model: a built Keras model.
        data: an array, a tensor, or a list or dict of them for several inputs; or a
            `tf.data.Dataset`, a Keras `Sequence` or another iterable of batches, a generator too
            unless `sequential`. Of a batch that is a tuple, the first element is the input.
        steps: None, or how many batches to read at most. Defaults to `None`.
        batch_size: the size of a batch where `data` are arrays. Defaults to `32`.
        sequential: see above. Defaults to `False`.
        verbose: 1 shows a progress bar, 0 does not. Defaults to `1`.

    Returns:
        `{layer name: Recomputed}`, in the order of the model's layers: how many values there were,
        and how far the statistics moved. Duplicate names are numbered. A layer that the data did
        not reach is left out; it keeps its statistics, and a warning names it.

    Raises:
        ValueError: if the model is not built, has no such layer or runs one inside a `tf.cond` or
            a loop; if the data is empty, does not fit the model, has less than two values per
            channel, or leads to statistics that are not finite: the first such layer is named.
            After any error, and after Ctrl-C, the model is as it was before.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras_norms.BatchNormalization(name="norm")])
    >>> x = np.array([[1.0], [3.0], [8.0]])
    >>> keras_norms.recompute_statistics(model, x, batch_size=2, verbose=0)["norm"].mean_shift
    4.0
    >>> model.layers[0].moving_mean.numpy(), model.layers[0].moving_variance.numpy()
    (array([4.], dtype=float32), array([8.666667], dtype=float32))

    Reference:
        Wu and Johnson, 2021, https://arxiv.org/abs/2105.07576: PreciseBN, which is one pass.
    """
    require(is_bool(sequential), CALLER, "`sequential` must be a bool", sequential=sequential)
    is_eager = tf.executing_eagerly()
    require(is_eager, CALLER, "it must be called outside of functions", executing_eagerly=is_eager)
    names = _layers(model)
    batches = InputBatches(data, batch_size, steps, CALLER, once=not sequential)
    groups = [list(names)]
    if sequential:
        groups = strata(model, groups[0], next(iter(batches)), CALLER, REMEDY)
    total = batches.size and batches.size * len(groups)
    progress = keras.utils.Progbar(total, verbose=verbose, unit_name="batch")
    found = {}
    with state_kept_on_error(model):
        for group in groups:
            targets = {layer: _Target(layer) for layer in group}
            for layer, parts in _merged_parts(model, targets, batches, progress).items():
                if (parts[0] > 0).any():
                    found[layer] = targets[layer].store(parts)
        for layer, name in names.items():
            if layer not in found:
                warnings.warn(
                    f"{CALLER}: `data` did not reach layer '{printable(name)}', which keeps its "
                    "statistics.",
                    stacklevel=2,
                )
    return {name: found[layer] for layer, name in names.items() if layer in found}


def _layers(model):
    """`{layer: name}` of what is recomputed."""
    rule = "`model` must be a built Keras model"
    is_built = isinstance(model, keras.layers.Layer) and model.built
    require(is_built, CALLER, rule, model=model)
    layers = batch_statistics_layers(model, CALLER)
    found = {
        layer: name
        for name, layer in layers.items()
        if layer.trainable and "statistics" not in getattr(layer, "frozen", ())
    }
    rule = "the model must have a layer with batch statistics that is not frozen"
    require(found, CALLER, rule, frozen=[printable(name) for name in layers])
    return found


class _Target:
    """A layer whose statistics are recomputed: what is taken of a batch, and what is stored."""

    def __init__(self, layer):
        self._layer, self._kept = layer, kept_by(layer)
        self._is_ours = isinstance(layer, BatchNormalizationBase)
        self._statistic = layer.read_statistic() if self._is_ours else MOMENTS
        # The layer's rule, without what guards it against single batches.
        unbiased = getattr(layer, "unbiased_moving_variance", False)
        self._rule = MovingAverage(0.0, layer.epsilon, self._kept, unbiased)
        self._before = stored_statistics(layer)
        # Found here, since within a call Keras 3 may hand out casted values.
        of_renorm = "moving_stddev", "renorm_mean", "renorm_stddev"
        known = (name for name in (*self._kept.names, *of_renorm) if hasattr(layer, name))
        self._variables = {name: on_replicas(getattr(layer, name)) for name in known}
        self._window = [part for v in window_weights(layer) for part in on_replicas(v)]

    def normalize_by_batch(self, call):
        """Gives a layer the statistics of what it is about to receive. Returns their parts."""
        if self._is_ours:
            parts = self._layer.parts_of(self._statistic, call.inputs, call.mask)
        else:
            x, weights, axis = call.view()
            parts, _ = MOMENTS.local(x, axis=axis, weights=weights, segment_size=None)
        channels = tf.shape(self._before[0])
        parts = tf.stack([tf.broadcast_to(part, channels) for part in parts])
        self._assign(*self._from(parts))
        return parts

    def merge(self, parts):
        """Parts of several batches, as those of all."""
        return tf.stack(self._statistic.merge(tuple(tf.unstack(tf.stack(parts, 1)))))

    def store(self, parts):
        """Assigns the statistics of all data. Returns what that did."""
        count = float(tf.reduce_min(self._statistic.finish(tuple(tf.unstack(parts))).count))
        if count <= 1:
            raise ValueError(
                f"{CALLER}: `data` must hold at least two values, for ranges in one batch, for "
                f"every channel of layer '{printable(self._layer.name)}'. Received: {count:g}."
            )
        new = self._from(parts)
        self._assign(*new)
        for variable in self._window:
            variable.assign(tf.zeros_like(variable))
        pairs = new, self._before
        shifts = ratios_of_norms(*(v for s in pairs for v in mean_and_variance(self._layer, s)))
        return Recomputed(count, *map(float, shifts))

    def _from(self, parts):
        """Mean and spread, float64; those from before where nothing counts."""
        mean, spread = self._before
        return self._rule.updated(mean, spread, self._statistic.finish(tuple(tf.unstack(parts))))

    def _assign(self, mean, spread):
        epsilon = self._layer.epsilon
        stddev = tf.sqrt(tf.maximum(self._kept.variance(spread, epsilon), 0.0) + epsilon)
        of_renorm = {"moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
        values = of_renorm | dict(zip(self._kept.names, (mean, spread), strict=True))
        for name, variables in self._variables.items():
            for variable in variables:
                value = tf.minimum(values[name], LARGEST * float(variable.dtype.max))
                variable.assign(tf.reshape(tf.cast(value, variable.dtype), variable.shape))


def _merged_parts(model, targets, batches, progress):
    """`{layer: parts}` over all batches, for the layers that they reach."""
    order: list = []

    def compute(calls):
        """Parts of each layer over its calls, in the order in which they run."""
        order[:] = dict.fromkeys(call.layer for call in calls)
        return [
            targets[layer].merge([call.found for call in calls if call.layer is layer])
            for layer in order
        ]

    def normalize_by_batch(call):
        return targets[call.layer].normalize_by_batch(call)

    options = dict(before=normalize_by_batch, owner=CALLER, remedy=REMEDY)
    run = ObservedModel(model, list(targets), compute, **options)
    found: dict = {}
    largest = dict.fromkeys(targets, 0.0)
    with contextlib.closing(run.over(batches, progress)) as results:
        for number, of_batch in enumerate(results):
            for layer, parts in zip(order, of_batch, strict=True):
                _check_finite(layer, parts.numpy(), number)
                largest[layer] = max(largest[layer], float(tf.reduce_max(parts[0])))
                collected = found.setdefault(layer, [])
                collected.append(parts)
                if len(collected) == MERGED_AT_ONCE:
                    collected[:] = [targets[layer].merge(collected)]
    merged = {layer: targets[layer].merge(parts).numpy() for layer, parts in found.items()}
    is_single = any(largest[layer] <= 1.0 < parts[0].max() for layer, parts in merged.items())
    if len(targets) > 1 and is_single:
        # What a layer behind receives would be 0 everywhere.
        raise ValueError(
            f"{CALLER}: a batch must have two values per channel or more where layers are "
            "recomputed in one pass; use larger batches, or `sequential=True`. "
            "Received: batches of one value."
        )
    return merged


def _check_finite(layer, parts, number):
    finite = np.isfinite(parts).all(0)
    if not finite.all():
        raise ValueError(
            f"{CALLER}: `data` must lead to finite statistics. Received: NaN or infinity in batch "
            f"{number}, counted from 0; the first to see it was layer '{printable(layer.name)}', "
            f"in channel {int(np.argmin(finite))}."
        )
