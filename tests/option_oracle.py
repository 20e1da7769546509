"""One training call with any options of the batch-statistics layers, in NumPy float64."""

import numpy as np

from tests import oracles


class TrainingOracle:
    """A layer without gamma and beta on `(rows, channels)`, and its state.

    `stddev` says that the layer keeps standard deviations and renormalizes within `limits`, which
    are r_max and d_max.
    """

    def __init__(self, channels, epsilon, stddev=False, limits=(1.0, 0.0), **options):
        self.epsilon, self.stddev, self.limits, self.options = epsilon, stddev, limits, options
        self.mean = np.zeros(channels)
        self.spread = np.sqrt(np.ones(channels) + epsilon) if stddev else np.ones(channels)
        self.batches, self.window = 0, []

    def __call__(self, x, weights=None):
        """Returns y, and count, mean and variance of each virtual batch."""
        weights = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
        parts, found = self._found(x, weights)
        y = [self._normalized(part, *v) for (part, _), v in zip(parts, found, strict=True)]
        self.window.append((x, weights))
        if len(self.window) == self.options.get("accumulate_steps", 1):
            joint = (np.concatenate(values) for values in zip(*self.window, strict=True))
            of_window, found_in_window = self._found(*joint)
            self._update(found_in_window, [w for _, w in of_window])
            self.window = []
        return np.concatenate(y), found

    def _found(self, x, weights):
        """The virtual batches, and count, mean and variance of each."""
        size = self.options.get("virtual_batch_size") or len(x)
        parts = [(x[i : i + size], weights[i : i + size]) for i in range(0, len(x), size)]
        return parts, [[np.ravel(v) for v in oracles.moments(part, -1, w)] for part, w in parts]

    def _normalized(self, x, count, mean, variance):
        stored = self.spread**2 - self.epsilon if self.stddev else self.spread
        mean, variance = (np.where(count > 0, *v) for v in ((mean, self.mean), (variance, stored)))
        stddev = np.sqrt(variance + self.epsilon)
        if not self.stddev:
            return (x - mean) / stddev
        r_max, d_max = self.limits
        r = np.clip(stddev / self.spread, 1.0 / r_max, r_max)
        d = np.clip((mean - self.mean) / self.spread, -d_max, d_max)
        return (x - mean) / stddev * r + d

    def _update(self, found, weights):
        counts, means, spreads = [], [], []
        for (count, mean, variance), w in zip(found, weights, strict=True):
            size = w.sum() ** 2 / max((w**2).sum(), 1e-300)
            if self.options.get("unbiased_moving_variance") and size > 1.0:
                variance = variance * size / (size - 1.0)
            counts.append(count)
            means.append(mean)
            spreads.append(np.sqrt(variance + self.epsilon) if self.stddev else variance)
        total = np.sum(counts, 0)
        skips = (
            self.options.get("skip_nonfinite_updates") and not np.isfinite([means, spreads]).all()
        )
        if not total.any() or skips:
            return
        mean, spread = (np.sum(np.multiply(counts, v), 0) / total for v in (means, spreads))
        takes = np.ones(len(mean), bool)
        if self.options.get("max_update"):
            takes = np.isfinite(mean + spread)
            mean, spread = self._bounded(mean, spread)
        momentum = self.options.get("momentum")
        share = 1.0 / (self.batches + 1.0) if momentum is None else 1.0 - momentum
        self.mean = np.where(takes, (1.0 - share) * self.mean + share * mean, self.mean)
        self.spread = np.where(takes, (1.0 - share) * self.spread + share * spread, self.spread)
        self.batches += 1

    def _bounded(self, mean, spread):
        added = 0.0 if self.stddev else self.epsilon
        power = 1.0 if self.stddev else 0.5
        stddev = (self.spread + added) ** power
        limit = self.options["max_update"] * stddev
        bounded = np.clip((spread + added) ** power, np.maximum(stddev - limit, 0), stddev + limit)
        return np.clip(mean, self.mean - limit, self.mean + limit), bounded ** (1 / power) - added
