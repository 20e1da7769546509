"""How far statistics of live data are from those of a reference, channel by channel."""

import numbers
from typing import NamedTuple

import numpy as np

MEASURES = ("psi", "kl")


def divergence(measure, mean, variance, reference_mean, reference_variance):
    """The distance of one normal distribution from another, elementwise; inf for NaN.

    kl   KL(live || reference) = (v / v0 - 1 - ln(v / v0) + (m - m0)^2 / v0) / 2
    psi  KL(live || reference) + KL(reference || live)
    """
    with np.errstate(all="ignore"):
        ratio = variance / reference_variance
        square = (mean - reference_mean) ** 2
        if measure == "kl":
            value = 0.5 * (ratio - 1.0 - np.log(ratio) + square / reference_variance)
        else:
            between = square * (1.0 / reference_variance + 1.0 / variance)
            value = 0.5 * (ratio + 1.0 / ratio - 2.0 + between)
    # Also where there is no spread at all, and 0 / 0.
    is_same = (mean == reference_mean) & (variance == reference_variance)
    return np.where(is_same, 0.0, np.where(np.isfinite(value), value, np.inf))


def _is_count(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 0


class ChannelDrift(NamedTuple):
    """One channel of one layer: its measure, and the statistics it comes from."""

    layer: str
    channel: int
    value: float
    mean: float
    stddev: float
    reference_mean: float
    reference_stddev: float


class Drift:
    """What `StatisticsReference.compare` found.

    Attributes:
        measure: `"psi"` or `"kl"`.
        threshold: the value above which a channel counts as drifted.
        by_channel: `{layer name: array (channels,)}`, the measure over all live data.
        by_batch: `{layer name: array (batches,)}`, its average over channels for each batch, in
            order: a trajectory in which one bad batch stands out. Small batches make it noisy.
    """

    def __init__(self, measure, threshold, by_channel, by_batch, statistics):
        self.measure, self.threshold = measure, threshold
        self.by_channel = by_channel
        self.by_batch = by_batch
        self._statistics = statistics

    def ranked(self, count=None):
        """The channels as a list of `ChannelDrift`, the worst first.

        Args:
            count: how many at most. Defaults to `None`, all.
        """
        if count is not None and not _is_count(count):
            raise ValueError(
                f"Drift.ranked: `count` must be None or an int, at least 0. Received: {count!r}."
            )
        layers = np.repeat(list(self.by_channel), [len(v) for v in self.by_channel.values()])
        channels = np.concatenate([np.arange(len(v)) for v in self.by_channel.values()])
        values = np.concatenate(list(self.by_channel.values()))
        order = np.argsort(-values, kind="stable")[:count]
        return [
            ChannelDrift(
                str(layers[i]),
                int(channels[i]),
                float(values[i]),
                *(float(v[channels[i]]) for v in self._statistics[layers[i]]),
            )
            for i in order
        ]

    @property
    def drifted(self):
        """The channels above the threshold, the worst first."""
        return [channel for channel in self.ranked() if channel.value > self.threshold]

    @property
    def channels(self):
        """How many channels were compared."""
        return sum(map(len, self.by_channel.values()))

    @property
    def share(self):
        """The share of channels that are above the threshold, from 0 to 1."""
        return len(self.drifted) / self.channels

    @property
    def average(self):
        """The average of the measure over all channels."""
        return float(np.mean(np.concatenate(list(self.by_channel.values()))))

    @property
    def worst_batch(self):
        """The index from 0 of the batch that drifted most, and its value in its worst layer."""
        worst = np.max(list(self.by_batch.values()), axis=0)
        index = int(np.argmax(worst))
        return index, float(worst[index])

    def to_json(self):
        """What a pipeline needs, of JSON types, all drifted channels. Infinite values are None."""

        def finite(value):
            return value if isinstance(value, (str, int)) or np.isfinite(value) else None

        index, value = self.worst_batch
        return {
            "measure": self.measure,
            "threshold": float(self.threshold),
            "channels": self.channels,
            "share": self.share,
            "average": finite(self.average),
            "worst_batch": {"index": index, "value": finite(value)},
            "drifted": [
                {name: finite(value) for name, value in channel._asdict().items()}
                for channel in self.drifted
            ],
        }

    def __repr__(self):
        return (
            f"<Drift {self.measure}: {len(self.drifted)} of {self.channels} channels above "
            f"{self.threshold:g}, average {self.average:.3g}>"
        )
