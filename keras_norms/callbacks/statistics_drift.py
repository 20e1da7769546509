"""Compares a model's activation statistics with a reference after each epoch."""

import os
import warnings
from typing import Any

from keras_norms.arguments import is_number
from keras_norms.diagnostics.statistics_reference import (
    StatisticsReference,
    check_options,
    observed_statistics,
)
from keras_norms.keras_api import keras
from keras_norms.models.batches import InputBatches
from keras_norms.printable import printable

CALLER = "StatisticsDrift"


class StatisticsDrift(keras.callbacks.Callback):
    """Compares live data with a `diagnostics.StatisticsReference` after each epoch, and warns.

    Use it where a model continues training on data that may change, and in `evaluate` of a deployed
    model: `model.evaluate(x, y, callbacks=[drift])`. The data is run through the model in inference
    mode, in addition to what `fit` or `evaluate` does. The weights may differ from those of the
    reference, so changes by training show as drift, too.

    In `fit` the logs contain `statistics_drift`, the average of the measure over all channels, and
    `drifted_channels`, the share of channels above the threshold; after `evaluate` read `history`.
    Where the share rises above `tolerated`, a warning names the worst channels, and the next one
    comes only after the share has been below. With `validation_data` the comparison follows its
    evaluation.

    Args:
        reference: a `StatisticsReference` of the model, or the path of one.
        data: the live data, as in `StatisticsReference.compare`. Arrays are copied; a `tf.data`
            pipeline is read again each time.
        measure: `"psi"` or `"kl"`. Defaults to `"psi"`.
        threshold: the measure above which a channel counts as drifted. Defaults to `0.25`.
        tolerated: the share of channels that may drift without a warning, in [0, 1].
            Defaults to `0.01`.
        batch_size: the size of a batch where `data` are arrays. Defaults to `32`.
        steps: None, or how many batches to read at most. Defaults to `None`.

    Attributes:
        history: a list of `Drift`, one for each epoch and each `evaluate`.

    Raises:
        ValueError: for an invalid argument; in `fit` and `evaluate`, if the reference is of another
            model or the data does not fit.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras_norms.BatchNormalization(name="norm")])
    >>> model.compile("sgd", "mse")
    >>> data = np.array([[-1.0], [1.0]] * 100)
    >>> reference = keras_norms.diagnostics.StatisticsReference.of(model, data, verbose=0)
    >>> drift = keras_norms.callbacks.StatisticsDrift(reference, data)
    >>> loss = model.evaluate(data, data, callbacks=[drift], verbose=0)
    >>> drift.history[0].average
    0.0
    """

    _supports_tf_logs = True  # Keras 2 hands others a copy, which the progress bar does not show.

    def __init__(
        self,
        reference,
        data,
        *,
        measure="psi",
        threshold=0.25,
        tolerated=0.01,
        batch_size=32,
        steps=None,
    ):
        super().__init__()
        check_options(measure, threshold, CALLER)
        if not is_number(tolerated, 0, 1):
            raise ValueError(f"{CALLER}: `tolerated` must be in [0, 1]. Received: {tolerated!r}.")
        if not isinstance(reference, (StatisticsReference, str, os.PathLike)):
            raise ValueError(
                f"{CALLER}: `reference` must be a StatisticsReference or a path. "
                f"Received: {type(reference).__name__}."
            )
        if not isinstance(reference, StatisticsReference):
            reference = StatisticsReference.load(reference)
        self.reference, self.measure, self.threshold = reference, measure, threshold
        self.tolerated = tolerated
        self.history = []
        self._batches = InputBatches(data, batch_size, steps, CALLER)
        self._statistics: Any = None
        self._compared, self._warned = None, False

    def on_train_begin(self, logs=None):
        self._check()

    def on_epoch_begin(self, epoch, logs=None):
        self._is_done = False

    def on_test_begin(self, logs=None):
        self._check()
        self._is_done = False

    def _check(self):
        """Before anything is trained."""
        if self.model.built and self.model is not self._compared:
            self._prepare()

    def _prepare(self):
        first = self._batches.build(self.model)
        self.reference.check_is_of(self.model, same_weights=False)
        self._statistics = observed_statistics(self.model, CALLER)
        self._statistics.check(first)
        self._compared, self._warned = self.model, False

    def on_test_end(self, logs=None):
        if not self._is_done:  # A callback that is passed twice is called twice.
            self._compare("an evaluation")
        self._is_done = True
        self._add_to(logs)

    def on_epoch_end(self, epoch, logs=None):
        if not self._is_done:  # Where `fit` has evaluated, that was this epoch's.
            self._compare(f"epoch {epoch + 1}")
        self._is_done = True
        self._add_to(logs)

    def _add_to(self, logs):
        if logs is not None:
            drift = self.history[-1]
            logs.update(statistics_drift=drift.average, drifted_channels=drift.share)

    def _compare(self, when):
        if self.model is not self._compared:
            self._prepare()
        collected = self._statistics.collect(self._batches)
        drift = self.reference.drift_of(self.model, collected, self.measure, self.threshold)
        self.history.append(drift)
        is_outside = drift.share > self.tolerated
        if is_outside and not self._warned:
            worst = ", ".join(
                f"{c.channel} of '{printable(c.layer)}' ({c.value:.3g})" for c in drift.drifted[:3]
            )
            warnings.warn(
                f"{CALLER}: after {when} {100 * drift.share:.3g} % of the channels have a "
                f"{self.measure} above {self.threshold:g}. The worst: channel {worst}.",
                stacklevel=2,
            )
        self._warned = is_outside
