"""The range of a batch as a statistic: an estimate of its standard deviation without squares.

The range of n values, multiplied by a constant `C(n)`, estimates their standard deviation. It is
averaged over runs of consecutive values, so that one outlier spoils one run only.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.extremes import known_counts
from keras_norms.statistics.moments import Pullback, sum_of_rows

# E[range of n values] / stddev of normal values is, but for 4e-6 of it, a polynomial in
# sqrt(ln n), for n from 2 to 2^40. Coefficients from the constant term on; fitted to
# the integral of 1 - F(x)^n - (1 - F(x))^n, where F is the normal distribution.
_NORMAL_RANGE = (
    -0.0961705346977011,
    0.6057321421937234,
    0.16863667229718154,
    2.4866183912841833,
    -2.608294386025011,
    1.3566046148059376,
    -0.4280546674663158,
    0.08573139540390078,
    -0.010698143942391287,
    0.0007611612018229424,
    -2.3633208040908667e-05,
)
_LARGEST_N = 2.0**40


def _calibrated(log_n):
    powers = tf.pow(tf.sqrt(log_n)[..., tf.newaxis], np.arange(len(_NORMAL_RANGE), dtype=float))
    return 1.0 / tf.reduce_sum(powers * _NORMAL_RANGE, -1)


def _lightnorm(log_n):
    return tf.math.rsqrt(2.0 * log_n)


def _banner(log_n):
    return 0.5 * 0.35 * (1.0 + np.sqrt(np.pi * np.log(4.0))) * _lightnorm(log_n)


# `C(n)` of each name, as a function of ln n.
RANGE_CONSTANTS = {"calibrated": _calibrated, "banner": _banner, "lightnorm": _lightnorm}


class Ranges(NamedTuple):
    """Statistics of a batch, float64 vectors.

    Attributes:
        mean: the mean of the values that count.
        deviation: the average of `C(n) * (max - min)` over all chunks of two values or more.
        count: the number of values behind each mean; 0 where there is no chunk of two, since such
            a batch has no range, and is taken for one in which nothing counts.
        chunks: the number of chunks behind each deviation.
    """

    mean: tf.Tensor
    deviation: tf.Tensor
    count: tf.Tensor
    chunks: tf.Tensor

    @property
    def variance(self):
        """What stands for the variance."""
        return tf.square(self.deviation)


class RangesStatistic(NamedTuple):
    """Mean and range. The parts are count, mean, sum of `C(n) * range`, number of chunks.

    So the deviation of several replicas is the average over the chunks of all of them.
    """

    num_chunks: int
    range_constant: str

    @property
    def part_names(self):
        return "count", "mean", "deviations", "chunks"

    def local(self, x, *, axis, weights, segment_size):
        layout = dict(axis=axis, weights=weights, segment_size=segment_size)
        found = kernels_in_use().extremes(x, chunks=self.num_chunks, **layout)
        # Where they are known before, TensorFlow computes with counts once, not in every step.
        counts = known_counts(x, axis, weights, segment_size, self.num_chunks)
        counts = found.count if counts is None else tf.constant(counts)
        factors = self._factors(counts)
        count = tf.reduce_sum(counts, -2)
        mean = tf.math.divide_no_nan(tf.reduce_sum(counts * found.mean, -2), count)
        # A batch that is not finite has no range.
        deviations = tf.reduce_sum(factors * (found.high - found.low), -2) + (mean - mean)
        chunks = tf.reduce_sum(tf.cast(factors > 0.0, tf.float64), -2)
        # No gradient: a tape that records gradients would ask for that of counts.
        kept = tf.stop_gradient(factors), found.low_at, found.high_at
        return (count, mean, deviations, chunks), kept

    def merge(self, parts, total=sum_of_rows):
        counts, means, *others = parts
        count, weighted_mean, *others = total([counts, counts * means, *others])
        return count, tf.math.divide_no_nan(weighted_mean, count), *others

    def finish(self, parts):
        count, mean, deviations, chunks = parts
        count = tf.where(chunks > 0.0, count, 0.0)
        return Ranges(mean, tf.math.divide_no_nan(deviations, chunks), count, chunks)

    def parts_of(self, statistics):
        count, chunks = statistics.count, statistics.chunks
        return count, statistics.mean, chunks * statistics.deviation, chunks

    def pullback(self, kept, statistics, gradients):
        factors, low_at, high_at = kept
        of_range = tf.math.divide_no_nan(gradients.deviation, statistics.chunks)
        values = tf.math.multiply_no_nan(tf.expand_dims(of_range, -2), factors)

        def at_positions(dx):
            """One addition at each extreme; elsewhere a range has no gradient."""
            return kernels_in_use().add_at(dx, values, high_at, low_at)

        c = tf.math.divide_no_nan(gradients.mean, statistics.count)
        return Pullback(c=c, at_positions=at_positions)

    def _factors(self, count):
        """`C(n)` for each chunk; 0 where it has less than two values and so no range."""
        log_n = tf.math.log(tf.clip_by_value(count, 2.0, _LARGEST_N))
        factors = RANGE_CONSTANTS[self.range_constant](log_n)
        return tf.where(count < 2.0, tf.zeros_like(factors), factors)
