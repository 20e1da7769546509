"""Activation statistics of a trained model, kept beside it to compare live data with."""

import hashlib
import json
import pathlib

import numpy as np

from keras_norms.arguments import is_number
from keras_norms.diagnostics.drift import MEASURES, Drift, divergence
from keras_norms.files import write_whole
from keras_norms.models.activation_statistics import ActivationStatistics, merged
from keras_norms.models.batches import InputBatches
from keras_norms.models.statistics_layers import batch_statistics_layers
from keras_norms.printable import called, printable

CALLER = "StatisticsReference"
FORMAT = 1


class StatisticsReference:
    """Mean and variance, per channel, of what each layer with batch statistics receives.

    They are taken in inference mode from data that the model is known to do well on, and saved
    beside the model. Later `compare` measures how far the statistics of other data are from them:

        kl   KL(live || reference) of normal distributions with these means and variances
        psi  KL(live || reference) + KL(reference || live), the population stability index

    with the layer's epsilon added to the variances, so that channels that are constant compare
    equal. As a rule of thumb, a psi below 0.1 means no change, and one above 0.25 a large one.

    Use it in deployment: inputs that are scaled, shifted, noisy, poisoned or of another kind show
    in some channel of some layer, without labels. It does not prove that predictions are still
    right, since it compares means and variances only. Both sides need enough data, a few hundred
    instances, or random fluctuations look like drift.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras_norms.BatchNormalization(name="norm")])
    >>> data = np.array([[-1.0], [1.0]] * 100)
    >>> reference = keras_norms.diagnostics.StatisticsReference.of(model, data, verbose=0)
    >>> drift = reference.compare(model, 3.0 * data, verbose=0)
    >>> worst = drift.ranked()[0]
    >>> worst.layer, worst.channel, round(worst.stddev, 2), round(worst.reference_stddev, 2)
    ('norm', 0, 3.0, 1.0)
    >>> drift.share
    1.0
    """

    def __init__(self, layers, weights, batches):
        self.layers = layers
        self._weights, self._batches = weights, batches
        self._traced = None

    def __getstate__(self):
        """Copies and pickles leave out the traced function."""
        return {**vars(self), "_traced": None}

    @classmethod
    def of(cls, model, data, *, batch_size=32, steps=None, verbose=1):
        """Takes the statistics of a model from data.

        Args:
            model: a Keras model, trained.
            data: an array, a tensor, or a list or dict of them for several inputs; or a
                `tf.data.Dataset` or another iterable of batches that can be read again. Of a
                batch that is a tuple, the first element is the input.
            batch_size: the size of a batch where `data` are arrays. Defaults to `32`.
            steps: None, or how many batches to read at most. Defaults to `None`.
            verbose: 1 shows a progress bar, 0 does not. Defaults to `1`.

        Raises:
            ValueError: if the model has no layer with batch statistics, or the data is empty, does
                not fit the model, or leads to statistics that are not finite.
        """
        batches = InputBatches(data, batch_size, steps, CALLER)
        batches.build(model)
        collected = observed_statistics(model, CALLER).collect(batches, verbose)
        if not collected:
            raise ValueError(
                f"{CALLER}: the model must run a layer with batch statistics. Received: "
                f"{called(model)}, which runs none of its own."
            )
        layers = {}
        for name, parts in collected.items():
            count, mean, variance = merged(parts)
            _check_counts(name, count)
            if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
                channel = int(np.argmin(np.isfinite(mean) & np.isfinite(variance)))
                raise ValueError(
                    f"{CALLER}: `data` must lead to finite statistics. Received: mean "
                    f"{mean[channel]:g} and variance {variance[channel]:g} in channel {channel} of "
                    f"layer '{printable(name)}'."
                )
            layers[name] = {"mean": mean, "variance": variance}
        count = max(len(parts[0]) for parts in collected.values())
        return cls(layers, weights_hash(model), count)

    @staticmethod
    def beside(model_path):
        """Where the reference of a saved model lies: `model.keras`, `model.statistics.json`."""
        path = pathlib.Path(model_path)
        stem = path.stem if path.suffix in (".keras", ".h5") else path.name
        return path.with_name(f"{stem}.statistics.json")

    def save(self, path):
        """Writes the reference as JSON, beside the target first and then in its place."""
        content = {
            "format": FORMAT,
            "weights": self._weights,
            "batches": self._batches,
            "layers": {
                name: {kind: values.tolist() for kind, values in statistics.items()}
                for name, statistics in self.layers.items()
            },
        }
        write_whole(path, json.dumps(content).encode())

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if the file is not a reference.
        """
        text = pathlib.Path(path).read_bytes()
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            layers = {
                name: {kind: np.array(of[kind], np.float64) for kind in ("mean", "variance")}
                for name, of in content["layers"].items()
            }
            for name, of in layers.items():
                if of["mean"].ndim != 1 or of["mean"].shape != of["variance"].shape:
                    raise ValueError(f"no vectors of the same length for '{printable(name)}'")
                if not np.isfinite([*of.values()]).all() or (of["variance"] < 0).any():
                    raise ValueError(f"no finite statistics for '{printable(name)}'")
            if not layers:
                raise ValueError("no layers")
            return cls(layers, str(content["weights"]), int(content["batches"]))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise ValueError(
                f"{CALLER}: {printable(path)} must be a file that `save` wrote. Received: one that "
                f"cannot be read as such ({type(error).__name__}: {printable(error)})."
            ) from error

    def compare(
        self,
        model,
        data,
        *,
        measure="psi",
        threshold=0.25,
        batch_size=32,
        steps=None,
        same_weights=True,
        verbose=1,
    ):
        """Compares the statistics of other data with these.

        Args:
            model: the model of the reference.
            data: as in `of`.
            measure: `"psi"` or `"kl"`. Defaults to `"psi"`.
            threshold: the measure above which a channel counts as drifted, at least 0.
                Defaults to `0.25`.
            batch_size: as in `of`. Defaults to `32`.
            steps: as in `of`. Defaults to `None`.
            same_weights: whether the model must have the weights that it had when the reference was
                recorded. False also compares a model that has been trained further. Defaults to
                `True`.
            verbose: as in `of`. Defaults to `1`.

        Returns:
            A `Drift`.

        Raises:
            ValueError: if the reference was made for another model, an argument is invalid, or the
                data is empty or does not fit the model.
        """
        check_options(measure, threshold, CALLER)
        batches = InputBatches(data, batch_size, steps, CALLER)
        batches.build(model)
        self.check_is_of(model, same_weights)
        if self._traced is None or self._traced.model is not model:
            # Kept for the next time: a deployed model is compared again and again.
            self._traced = observed_statistics(model, CALLER)
        collected = self._traced.collect(batches, verbose)
        return self.drift_of(model, collected, measure, threshold)

    def check_is_of(self, model, same_weights=True):
        """Raises ValueError if the reference was made for another model than this."""
        sizes = {
            name: int(np.prod(layer.moving_mean.shape))
            for name, layer in batch_statistics_layers(model, CALLER).items()
        }
        rule = f"{CALLER}: a reference must be of the model that it is compared with"
        for name, of in self.layers.items():
            if sizes.get(name) != len(of["mean"]):
                here = f"{sizes[name]} channels" if name in sizes else "no such layer"
                raise ValueError(
                    f"{rule}. Received: one with layer '{printable(name)}' of {len(of['mean'])} "
                    f"channels, for a model with {here}."
                )
        if same_weights and weights_hash(model) != self._weights:
            raise ValueError(
                f"{rule}, with the same weights. Received: other weights. Record it again "
                "after each training, or compare with `same_weights=False` (`--other-weights`)."
            )

    def drift_of(self, model, collected, measure, threshold):
        """A `Drift`, from what `ActivationStatistics` of the model collected."""
        layers = batch_statistics_layers(model, CALLER)
        by_channel, by_batch, statistics = {}, {}, {}
        for name, of in self.layers.items():
            if name not in collected:
                raise ValueError(
                    f"{CALLER}: the model must run layer '{printable(name)}', as it did for the "
                    "reference. Received: a model that does not run it."
                )
            counts, means, m2s = collected[name]
            count, mean, variance = merged(collected[name])
            _check_counts(name, count)
            epsilon = layers[name].epsilon
            reference = of["mean"], of["variance"] + epsilon
            by_channel[name] = divergence(measure, mean, variance + epsilon, *reference)
            variances = np.divide(m2s, counts, out=np.zeros_like(m2s), where=counts > 0)
            each = divergence(measure, means, variances + epsilon, *reference)
            # A batch in which nothing counts has no statistics.
            by_batch[name] = np.where(counts > 0, each, 0.0).mean(1)
            stddevs = np.sqrt(variance), np.sqrt(of["variance"])
            statistics[name] = mean, stddevs[0], of["mean"], stddevs[1]
        return Drift(measure, threshold, by_channel, by_batch, statistics)


def observed_statistics(model, owner):
    """The `ActivationStatistics` of a model's layers with batch statistics."""
    layers = batch_statistics_layers(model, owner)
    return ActivationStatistics(model, layers, owner, "It cannot be inspected there.")


def check_options(measure, threshold, owner):
    """Raises ValueError for an invalid measure or threshold."""
    if measure not in MEASURES:
        names = ", ".join(map(repr, MEASURES))
        raise ValueError(f"{owner}: `measure` must be one of {names}. Received: {measure!r}.")
    if not is_number(threshold, 0):
        raise ValueError(
            f"{owner}: `threshold` must be a finite number, at least 0. Received: {threshold!r}."
        )


def _check_counts(name, count):
    if not (count > 1).all():
        raise ValueError(
            f"{CALLER}: `data` must hold at least two values for every channel of layer "
            f"'{printable(name)}'. Received: {count.min():g}."
        )


def weights_hash(model):
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.dtype} {weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
