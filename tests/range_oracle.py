"""Normalization by ranges in NumPy float64, and its state. Imports nothing of ours."""

import functools
import math

import numpy as np


@functools.cache
def expected_range(n):
    """E[largest - smallest of n standard normal values], by Simpson's rule.

    2 times the integral over x > 0 of 1 - P(all are below x) - P(all are above x).
    """
    points, step = np.linspace(0.0, 14.0, 8001, retstep=True)
    tail = np.array([0.5 * math.erfc(x / math.sqrt(2.0)) for x in points])
    integrand = -np.expm1(n * np.log1p(-tail)) - tail**n
    weights = np.full(len(points), 2.0)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    return 2.0 * step / 3.0 * np.sum(weights * integrand)


CONSTANTS = {
    "calibrated": lambda n: 1.0 / expected_range(n),
    "banner": lambda n: (
        0.175 * (1.0 + math.sqrt(math.pi * math.log(4.0))) / math.sqrt(2 * np.log(n))
    ),
    "lightnorm": lambda n: 1.0 / math.sqrt(2.0 * math.log(n)),
}


def chunks_of(positions, num_chunks):
    """Runs of positions, which are as many as leave two values each."""
    used = min(max(positions // 2, 1), num_chunks)
    return np.array_split(np.arange(positions), used)


def by_position(x, axis=-1):
    """`(positions, channels)` in the order of memory; several axes make one of channels."""
    axes = [a % x.ndim for a in np.atleast_1d(axis)]
    rows = [a for a in range(x.ndim) if a not in axes]
    channels = math.prod(x.shape[a] for a in axes)
    return np.transpose(x, rows + axes).reshape(-1, channels)


class RangeOracle:
    """A layer without gamma and beta on `(positions, channels)`, and its state.

    `virtual` are the positions of a virtual batch. `moving_scale` is deviation + epsilon.
    """

    def __init__(self, channels, epsilon, *, num_chunks, constant, momentum=0.5, **options):
        self.epsilon, self.num_chunks, self.momentum = epsilon, num_chunks, momentum
        self.constant, self.options = CONSTANTS[constant], options
        self.mean, self.scale = np.zeros(channels), np.full(channels, 1.0 + epsilon)
        self.batches, self.window = 0, []

    def statistics(self, replicas):
        """count, mean and deviation of each channel, of `[(x, weights), ...]` of replicas."""
        columns = []
        for channel in range(replicas[0][0].shape[1]):
            values, ranges = [], []
            for x, weights in replicas:
                counts = np.broadcast_to(weights, x.T.shape).T[:, channel] > 0
                for chunk in chunks_of(len(x), self.num_chunks):
                    kept = x[chunk, channel][counts[chunk]]
                    values.extend(kept)
                    if len(kept) > 1:
                        ranges.append(self.constant(len(kept)) * (kept.max() - kept.min()))
            mean = np.mean(values) if values else 0.0
            is_finite = np.isfinite(mean)
            deviation = np.mean(ranges) if ranges and is_finite else 0.0 * mean
            columns.append((len(values) if ranges else 0, mean, deviation))
        return [np.array(row, float) for row in zip(*columns, strict=True)]

    def train(self, x, weights=None):
        return self.train_replicas([(x, np.ones(len(x)) if weights is None else weights)])[0]

    def train_replicas(self, replicas):
        """The outputs of replicas that are synchronized."""
        if self.options.get("virtual"):
            ((x, w),) = replicas
            cuts = range(self.options["virtual"], len(x), self.options["virtual"])
            batches = [[pair] for pair in zip(np.split(x, cuts), np.split(w, cuts), strict=True)]
        else:
            batches = [replicas]
        self.window += replicas
        found = [self.statistics(batch) for batch in batches]
        y = [
            [self.normalized(x, *statistics) for x, _ in batch]
            for batch, statistics in zip(batches, found, strict=True)
        ]
        steps = self.options.get("accumulate_steps", 1)
        if len(self.window) == steps * len(replicas):
            # The chunks of all batches are merged as those of replicas are.
            self._update(found if steps == 1 else [self.statistics(self.window)])
            self.window = []
        return [np.concatenate([part[0] for part in y])] if len(y) > 1 else y[0]

    def normalized(self, x, count, mean, deviation):
        mean = np.where(count > 0, mean, self.mean)
        scale = np.where(count > 0, deviation + self.epsilon, self.scale)
        return (x - mean) / scale

    def infer(self, x):
        return (x - self.mean) / self.scale

    def _update(self, found):
        counts = np.array([count for count, _, _ in found])
        finite = np.isfinite([[mean, deviation] for _, mean, deviation in found]).all()
        if not counts.any() or (self.options.get("skip_nonfinite_updates") and not finite):
            return
        total = np.maximum(counts.sum(0), 1.0)
        mean = sum(count * mean for count, mean, _ in found) / total
        scale = sum(count * (deviation + self.epsilon) for count, _, deviation in found) / total
        takes = counts.sum(0) > 0
        if self.options.get("max_update"):
            takes &= np.isfinite(mean + scale)
            mean, scale = self._bounded(mean, scale)
        share = 1.0 / (self.batches + 1.0) if self.momentum is None else 1.0 - self.momentum
        self.mean = np.where(takes, self.mean + share * (mean - self.mean), self.mean)
        self.scale = np.where(takes, self.scale + share * (scale - self.scale), self.scale)
        self.batches += 1

    def _bounded(self, mean, scale):
        """Within so many stored standard deviations, which have epsilon in the square."""
        stored, new = (np.sqrt((s - self.epsilon) ** 2 + self.epsilon) for s in (self.scale, scale))
        limit = self.options["max_update"] * stored
        bounded = np.clip(new, np.maximum(stored - limit, 0.0), stored + limit)
        bounded = np.sqrt(np.maximum(bounded**2 - self.epsilon, 0.0)) + self.epsilon
        return np.clip(mean, self.mean - limit, self.mean + limit), bounded
