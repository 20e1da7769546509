"""Which batch normalization a model wants at a number of replicas and a batch size."""

import io
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_norms.arguments import is_number, is_size, require
from keras_norms.diagnostics.synchronization_cost import synchronization_cost
from keras_norms.models.activation_statistics import ActivationStatistics, merged
from keras_norms.models.batches import InputBatches
from keras_norms.models.statistics_layers import batch_statistics_layers
from keras_norms.printable import printable

OWNER = "advise"
_REMEDY = "Move it out to have it measured."


class LayerAdvice(NamedTuple):
    """What was measured of one layer.

    Attributes:
        layer: its name.
        channels: how many it has.
        noise: of the statistics of one replica's batch, as in `advise`.
        group_noise: of those of all replicas together.
        seconds: what one step of synchronizing it costs, or None where that cannot be measured.
        advice: the class that the rule speaks for.
    """

    layer: str
    channels: int
    noise: float
    group_noise: float
    seconds: float | None
    advice: str


class ReplicaAdvice(NamedTuple):
    """What `advise` returns.

    Attributes:
        rows: a `LayerAdvice` for each layer.
        replicas: the number of replicas.
        batch_size: of each replica.
        limit: the noise that counts as small.
        why_no_cost: why synchronizing was not measured, or "".
    """

    rows: tuple
    replicas: int
    batch_size: int
    limit: float
    why_no_cost: str

    @property
    def advice(self):
        """The class for the whole model: what the layer with the most noise wants."""
        return max(self.rows, key=lambda row: row.noise).advice

    def to_json(self):
        """A dict of numbers, strings and lists."""
        own = {name: value for name, value in self._asdict().items() if name != "rows"}
        return {**own, "advice": self.advice, "layers": [row._asdict() for row in self.rows]}

    def table(self, width=120):
        """Text with a row for each layer, and the rule."""
        table = Table(title="Noise of the batch statistics", title_justify="left")
        table.add_column("layer", overflow="fold")
        for name in ("channels", f"batch {self.batch_size}", f"× {self.replicas} replicas"):
            table.add_column(name, justify="right")
        table.add_column("sync, µs a step", justify="right")
        table.add_column("advice")
        for row in self.rows:
            cost = "-" if row.seconds is None else f"{1e6 * row.seconds:.0f}"
            numbers = f"{row.channels}", f"{row.noise:.3f}", f"{row.group_noise:.3f}", cost
            table.add_row(escape(printable(row.layer)), *numbers, row.advice)
        text = io.StringIO()
        console = Console(file=text, width=width)
        console.print(table)
        seconds = [row.seconds for row in self.rows if row.seconds is not None]
        total = f"{1e3 * sum(seconds):.2f} ms a step in all" if seconds else self.why_no_cost
        console.print(f"Synchronizing: {total}.", highlight=False)
        rule = RULE.format(limit=self.limit)
        console.print(f"For the model: {self.advice}. {rule}", highlight=False)
        return text.getvalue().rstrip("\n")


RULE = (
    "Rule: noise up to {limit:g} is small; where a replica has more, synchronize if that makes it "
    "small, else correct towards the moving statistics, and where batches have no spread at all, "
    "train the statistics."
)


def advise(model, data, replicas, batch_size, *, limit=0.2, steps=None, verbose=1):
    """Measures how noisy batch statistics are at a batch size, and what synchronizing would cost.

        noise = sqrt(mean over batches and channels of ((mean_B - mean) / stddev)^2)

    with the mean and standard deviation of all the data. For independent values it is one over the
    square root of how many a batch has per channel; values of one image are not independent, which
    is why it is measured. Batches are taken from the data as they come, and the batches of
    `replicas` consecutive ones are those of all replicas together: if the data is ordered, so
    that batches are non-i.i.d., that shows. The model runs in inference mode, once over the data.

    The rule is a choice of this package, not a theorem. Synchronized statistics are those of one
    large batch (Peng et al., 2018); Batch Renormalization was made for small and non-i.i.d. batches
    (Ioffe, 2017); a batch of one value per channel has no spread, and Batchless Normalization
    needs none (Berger and Uc Cetina, 2022).

        noise <= limit                                  BatchNormalization
        else, noise over all replicas <= limit          SyncBatchNormalization
        else, where a batch has two values or more      BatchRenormalization
        else                                            BatchlessNormalization

    Synchronizing is measured on this machine: the time of the exchanges of a training step of
    each layer, by collectives over `replicas` devices. It needs that many devices.

    Use it on a trained model, or on one that has trained for a while. Not to compare models: noise
    says nothing about accuracy.

    Args:
        model: a built Keras model with batch normalization layers, ours or of stock Keras.
        data: inputs of at least two batches of all replicas together: arrays, a `tf.data.Dataset`
            or an iterable of batches of `batch_size`.
        replicas: how many replicas train the model.
        batch_size: instances of each replica.
        limit: the noise that counts as small. Defaults to `0.2`.
        steps: read at most this many batches. Defaults to `None`.
        verbose: 1 for a progress bar. Defaults to `1`.

    Returns:
        A `ReplicaAdvice`.

    Raises:
        ValueError: for an invalid argument, a model without such a layer, data that does not fit
            or is too little, and for statistics that are not finite.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras_norms.BatchNormalization(name="norm")])
    >>> x = np.random.default_rng(0).normal(size=(256, 4))
    >>> advice = keras_norms.diagnostics.advise(model, x, replicas=8, batch_size=4, verbose=0)
    >>> advice.advice
    'SyncBatchNormalization'
    """
    require(is_size(replicas), OWNER, "`replicas` must be a positive int", replicas=replicas)
    rule = "`limit` must be a number above 0"
    require(is_number(limit, 0.0) and limit > 0, OWNER, rule, limit=limit)
    batches = InputBatches(data, batch_size, steps, OWNER)
    batches.build(model)
    layers = batch_statistics_layers(model, OWNER)
    statistics = ActivationStatistics(model, layers, OWNER, _REMEDY)
    found = statistics.collect(_Whole(batches, batch_size), verbose)
    measured = {name: _noise(name, parts, replicas) for name, parts in found.items()}
    channels = {name: parts[1].shape[-1] for name, parts in found.items()}
    seconds, why = synchronization_cost(sorted(set(channels.values())), replicas)
    rows = tuple(
        LayerAdvice(
            name,
            channels[name],
            noise,
            group_noise,
            seconds.get(channels[name]),
            _advice(noise, group_noise, values, limit, replicas),
        )
        for name, (noise, group_noise, values) in measured.items()
    )
    return ReplicaAdvice(rows, replicas, batch_size, limit, why)


class _Whole:
    """The batches that have the size asked for: noise depends on it, and the last may be small."""

    def __init__(self, batches, batch_size):
        self._batches, self._batch_size, self.size = batches, batch_size, batches.size

    def __iter__(self):
        for batch in self._batches:
            size = len(tf.nest.flatten(batch)[0])
            rule = "batches must have `batch_size` instances; a smaller one is left out"
            require(size <= self._batch_size, OWNER, rule, batch_size=self._batch_size, size=size)
            if size == self._batch_size:
                yield batch


def _noise(name, parts, replicas):
    """The noise of one replica's batch and of all replicas', and the values a batch has."""
    counts = parts[0]
    parts = [part[counts.min(-1) > 0] for part in parts]  # A mask may leave nothing of a batch.
    counts, means, _ = parts
    groups = len(counts) // replicas
    rule = "`data` must have at least two batches of all replicas together"
    require(groups >= 2, OWNER, rule, batches=len(counts), replicas=replicas)
    count, mean, variance = merged(parts)
    is_finite = np.isfinite(mean).all() and np.isfinite(variance).all()
    rule = f"the inputs of layer '{printable(name)}' must be finite"
    require(is_finite, OWNER, rule, data="NaN or infinite values")
    grouped = [part[: groups * replicas].reshape(groups, replicas, -1) for part in parts]
    group_means = np.stack([merged([part[i] for part in grouped])[1] for i in range(groups)])
    varies = variance > 0
    if not varies.any():
        return 0.0, 0.0, float(np.median(counts))

    def noise_of(values):
        return float(np.sqrt(np.mean(((values - mean)[:, varies] ** 2) / variance[varies])))

    return noise_of(means), noise_of(group_means), float(np.median(counts))


def _advice(noise, group_noise, values, limit, replicas):
    if noise <= limit:
        return "BatchNormalization"
    if replicas > 1 and group_noise <= limit:
        return "SyncBatchNormalization"
    return "BatchRenormalization" if values >= 2 else "BatchlessNormalization"
