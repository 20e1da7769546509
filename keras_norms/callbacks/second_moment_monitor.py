"""Watches whether the statistics of Batchless layers follow the data."""

import warnings

import tensorflow as tf

from keras_norms.arguments import is_number, require
from keras_norms.callbacks.readings import Readings
from keras_norms.keras_api import nested_layers
from keras_norms.layers.batchless_normalization import BatchlessNormalization
from keras_norms.models.statistics_layers import named
from keras_norms.printable import called, printable

CALLER = "SecondMomentMonitor"


def _is_band(value):
    try:
        least, largest = value
    except (TypeError, ValueError):
        return False
    limits = is_number(least, 0), is_number(largest, may_be_infinite=True)
    return all(limits) and least < largest


class SecondMomentMonitor(Readings):
    """Records `E[z^2]` of every `BatchlessNormalization` with a `monitor`, and warns.

    `z` is the normalized input of such a layer, before gamma and beta. Its second moment is 1 where
    the statistics fit the data. Far above, activations are larger than the following layers were
    trained for, and the statistics lag behind: initialize them from data, lower the learning rate,
    or raise the layers' `learning_rate_multiplier`. Far below, the signal vanishes.

    The values are in the logs at the end of an epoch, as `<layer>_second_moment`, and at any time
    in `history`. Reading them waits for the device, so it is done every `every` batches.

    Args:
        band: the least and the largest value that raise no warning; 0 <= least < largest.
            Defaults to `(0.25, 4.0)`.
        every: a positive int, the number of batches from one reading to the next. Defaults to
            `100`.

    Attributes:
        steps: the numbers of the batches with a reading, from 1, over all epochs.
        history: `{layer name: [value at each of the steps]}`. Duplicate names are numbered. Both
            are reset for another model.

    Raises:
        ValueError: for an invalid argument; in `fit`, if no layer has a monitor.

    Example:

    >>> layer = keras_norms.BatchlessNormalization(monitor=0.5, name="norm")
    >>> model = keras.Sequential([keras.Input((1,)), layer])
    >>> model.compile("sgd", "mse")
    >>> moments = keras_norms.callbacks.SecondMomentMonitor(every=1)
    >>> x = np.array([[1.0], [-1.0]])
    >>> history = model.fit(x, x, batch_size=2, callbacks=[moments], verbose=0)
    >>> moments.history
    {'norm': [1.0]}
    """

    def __init__(self, band=(0.25, 4.0), every=100):
        super().__init__(every)
        require(
            _is_band(band), CALLER, "`band` must be two numbers, 0 <= least < largest", band=band
        )
        self.band = tuple(band)
        self._outside = set()

    def on_train_begin(self, logs=None):
        layers = named(
            layer
            for layer in nested_layers(self.model)
            if isinstance(layer, BatchlessNormalization) and layer.monitor is not None
        )
        self._watch(layers)
        if not layers:
            raise ValueError(
                "SecondMomentMonitor: the model must have a BatchlessNormalization with a "
                f"`monitor`. Received: {called(self.model)} without."
            )

    def on_train_batch_end(self, batch, logs=None):
        if self._count(batch):
            self._read()

    def on_epoch_end(self, epoch, logs=None):
        if not self.steps or self.steps[-1] != self._batches:
            self._read()
        if logs is not None:
            values = {printable(name): values[-1] for name, values in self.history.items()}
            logs.update({f"{name}_second_moment": value for name, value in values.items()})

    def _read(self):
        self.steps.append(self._batches)
        for name, layer in self._layers.items():
            value = float(tf.convert_to_tensor(layer.second_moment))
            self.history.setdefault(name, []).append(value)
            # Not `not inside`: a value that is NaN lies outside too.
            inside = self.band[0] <= value <= self.band[1]
            if inside:
                self._outside.discard(name)
            elif name not in self._outside:
                self._outside.add(name)
                warnings.warn(
                    f"{type(layer).__name__} '{printable(name)}': E[z^2] is {value:.3g} after "
                    f"batch {self._batches}, outside [{self.band[0]:g}, {self.band[1]:g}]: its "
                    "statistics do not follow the data. Initialize them from data, lower the "
                    "learning rate, or raise the layer's `learning_rate_multiplier`.",
                    stacklevel=2,
                )
