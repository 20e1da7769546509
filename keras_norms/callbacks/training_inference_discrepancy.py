"""Records how far batches are from the moving statistics while a model trains."""

import importlib.util
import os
import warnings

import numpy as np
import tensorflow as tf

from keras_norms.arguments import is_number
from keras_norms.callbacks.readings import Readings
from keras_norms.diagnostics.discrepancy import ratios_by_channel
from keras_norms.models.statistics_layers import (
    batch_statistics_layers,
    mean_and_variance,
    momentum_now,
    ratios_of_norms,
    stored_statistics,
)
from keras_norms.printable import called, printable

CALLER = "TrainingInferenceDiscrepancy"


class TrainingInferenceDiscrepancy(Readings):
    """Records the training-inference discrepancy (TID) of every layer with batch statistics.

    From the training batches themselves, for our layers and stock Keras layers:

        mean TID     = ||mean_B - moving_mean||_2     / ||moving_stddev||_2
        variance TID = ||stddev_B - moving_stddev||_2 / ||moving_stddev||_2

    with the moving statistics before the batch. The statistics of the batch are computed from the
    update of the moving ones,

        mean_B = (new - momentum * old) / (1 - momentum),

    so the training step does not change, and a batch costs a few operations on vectors. Where the
    mean is 1000 standard deviations from 0 and the momentum 0.99, it is known to 1 % of a standard
    deviation. On several replicas it is their average; for a layer that is called several times in
    a step it is a mixture of the calls. `max_update` and `unbiased_moving_variance` affect it as
    they affect the update. Layers that are frozen or have a momentum of 1 are left out. The values
    of a layer that runs in inference mode nevertheless are NaN until it is updated, and are left
    out of the averages. So are those of a layer with `accumulate_steps` but for the batches that
    end a window, where they are of the window.

    Use it to see during training whether inference will go wrong: then the TID stays large. Not
    with `steps_per_execution` above 1, where single updates cannot be separated. For a trained
    model there is `diagnostics.training_inference_discrepancy`.

    The averages over layers are in the logs, and so in the progress bar, as `tid_mean` and
    `tid_variance`; at the end of an epoch they are averages over its readings. All values are in
    `history`.

    Args:
        every: a positive int, the number of batches from one reading to the next. Defaults to `10`.
        log_dir: None, or a folder for TensorBoard: scalars per layer at each reading, and
            histograms over channels at the end of each epoch. Defaults to `None`.

    Attributes:
        steps: the numbers of the batches with a reading, from 1, over all epochs.
        history: `{layer name: {"mean": [...], "variance": [...]}}`, a value at each of the steps.
            Duplicate names are numbered. Both are reset for another model.

    Raises:
        ValueError: for an invalid argument; in `fit`, if no layer with batch statistics is trained,
            or several batches are run at once.
        ImportError: for a `log_dir` where TensorBoard is not installed.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(name="norm")])
    >>> model.compile("sgd", "mse")
    >>> tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    >>> x = np.array([[1.0], [3.0]])  # mean 2 and stddev 1, against 0 and 1
    >>> history = model.fit(x, x, batch_size=2, callbacks=[tid], verbose=0)
    >>> round(tid.history["norm"]["mean"][0], 3)
    2.0

    Reference:
        Wang, Wu and Huang, 2022, https://arxiv.org/abs/2210.05153.
    """

    _supports_tf_logs = True  # Keras 2 hands others a copy, which the progress bar does not show.

    def __init__(self, every=10, log_dir=None):
        super().__init__(every)
        if log_dir is not None and not isinstance(log_dir, (str, os.PathLike)):
            raise ValueError(f"{CALLER}: `log_dir` must be a path or None. Received: {log_dir!r}.")
        if log_dir is not None and os.path.isfile(log_dir):
            raise ValueError(f"{CALLER}: `log_dir` must be a folder. Received: the file {log_dir}.")
        if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                f"{CALLER}: `log_dir` needs TensorBoard: pip install tensorboard. "
                f"Received: log_dir={os.fspath(log_dir)!r}."
            )
        self.log_dir = log_dir
        self._watched = self._traced = self._writer = None

    def on_train_begin(self, logs=None):
        self._found = None
        if self.model is not self._watched:
            self._reset()
            self._layers = {}
            self._watched = self.model
        at_once = getattr(self.model, "steps_per_execution", 1)  # Public in Keras 3 only.
        if isinstance(at_once, int) and at_once > 1:
            self._refuse(at_once)
        if self.model.built:
            self._find_layers()

    def _refuse(self, batches):
        raise ValueError(
            f"{CALLER}: the update of each batch must be seen: use `steps_per_execution=1`. "
            f"Received: {batches} batches at once."
        )

    def _find_layers(self):
        """Keras 2 builds models in their first step, so it may be too early before."""
        layers = {
            name: layer
            for name, layer in batch_statistics_layers(self.model, CALLER).items()
            if layer.trainable
            and "statistics" not in getattr(layer, "frozen", [])
            and not (is_number(layer.momentum) and layer.momentum >= 1)
        }
        if not layers:
            raise ValueError(
                f"{CALLER}: a layer with batch statistics must be trained, with a momentum below "
                f"1. Received: {called(self.model)} without."
            )
        self._watch(layers)
        self._found = layers
        momenta = [(layer, layer.momentum) for layer in layers.values()]
        if momenta != self._traced:  # Tracing takes longer than many readings.
            self._traced = momenta
            self._read = tf.function(self._stored, autograph=False)
            self._measure = tf.function(self._measured, autograph=False)
        if self.log_dir is not None and self._writer is None:
            try:
                os.makedirs(self.log_dir, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"{CALLER}: `log_dir` must be a folder that can be written. "
                    f"Received: {printable(error)}."
                ) from error
            self._writer = tf.summary.create_file_writer(os.fspath(self.log_dir))

    def _reset(self):
        super()._reset()
        self._moved = set()
        self._epoch_begin = 0

    def _stored(self):
        """The moving statistics of each layer, and the momentum of its next update."""
        return [
            (stored_statistics(layer), tf.cast(momentum_now(layer), tf.float64))
            for layer in self._layers.values()
        ]

    def _measured(self, stored):
        """The ratios of norms, `[layers, 2]`, those by channel, two vectors a layer, what moved."""
        ratios, by_channel, has_moved = [], [], []
        now = self._stored()
        pairs = zip(self._layers.values(), stored, now, strict=True)
        for layer, (old, momentum), (new, _) in pairs:
            entered = [(b - momentum * a) / (1.0 - momentum) for a, b in zip(old, new, strict=True)]
            has_moved.append(tf.reduce_any(tf.stack(old) != tf.stack(new)))
            batch, old, new = (mean_and_variance(layer, s) for s in (entered, old, new))
            ratios.append(ratios_of_norms(*batch, *old))
            moments = *batch, *new, layer.epsilon
            by_channel.append(ratios_by_channel(*moments))
        return tf.convert_to_tensor(ratios), by_channel, has_moved

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch_begin = len(self.steps)

    def on_train_batch_begin(self, batch, logs=None):
        number = self._before + batch + 1
        self._first = batch
        self._old = self._read() if self._found and number % self.every == 0 else None

    def on_train_batch_end(self, batch, logs=None):
        if batch != self._first:
            self._refuse(batch - self._first + 1)
        self._count(batch)
        if self._found is None:
            self._find_layers()
        if self._old is not None:
            self._record(*self._measure(self._old))
            self._old = None  # A callback that is passed twice is called twice.
        self._add_to(logs, slice(-1, None))

    def _record(self, ratios, by_channel, has_moved):
        self.steps.append(self._batches)
        self._by_channel = by_channel
        moved_now = {n for n, m in zip(self._layers, has_moved, strict=True) if m}
        self._moved |= moved_now
        for name, values in zip(self._layers, ratios.numpy().tolist(), strict=True):
            accumulates = getattr(self._layers[name], "accumulate_steps", 1) > 1
            if name not in (moved_now if accumulates else self._moved):
                values = [np.nan, np.nan]
            kept = self.history.setdefault(name, {"mean": [], "variance": []})
            for kind, value in zip(kept, values, strict=True):
                kept[kind].append(value)
                if self._writer is not None:
                    with self._writer.as_default(self._batches):
                        tf.summary.scalar(f"tid_{kind}/{printable(name)}", value)

    def _add_to(self, logs, readings):
        if logs is not None and self.steps[readings]:
            for kind in ("mean", "variance"):
                values = np.array([kept[kind][readings] for kept in self.history.values()])
                values = values[~np.isnan(values)]
                logs[f"tid_{kind}"] = float(np.mean(values)) if values.size else np.nan

    def on_epoch_end(self, epoch, logs=None):
        self._add_to(logs, slice(self._epoch_begin, None))
        if self._writer is None or len(self.steps) == self._epoch_begin:
            return
        with self._writer.as_default(self._batches):
            for name, channels in zip(self._layers, self._by_channel, strict=True):
                for kind, values in zip(("mean", "variance"), channels, strict=True):
                    tf.summary.histogram(f"tid_{kind}_by_channel/{printable(name)}", values)
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._batches and not self.steps:
            warnings.warn(
                f"{CALLER}: nothing was recorded: there were {self._batches} batches, and `every` "
                f"is {self.every}.",
                stacklevel=2,
            )
        if self._writer is not None:
            self._writer.close()
            self._writer = None
