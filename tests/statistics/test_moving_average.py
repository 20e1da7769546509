"""The moving-average rule: values by hand, fixed points, and what it keeps out."""

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.ops.moments import Moments
from keras_norms.statistics.effective_size import SizedMoments
from keras_norms.statistics.moving_average import MovingAverage
from keras_norms.statistics.moving_statistics import MOVING_STDDEV

pytestmark = pytest.mark.each_tensorflow


def update(rule, mean, variance, batch, enabled=None):
    kind = Moments if len(batch) == 3 else SizedMoments
    batch = kind(*(tf.constant(v, tf.float64) for v in batch))
    results = rule.updated(tf.constant(mean), tf.constant(variance), batch, enabled)
    return [value.numpy().tolist() for value in results]


def test_two_updates_by_hand():
    rule = MovingAverage(momentum=0.75, epsilon=0.0)
    mean, variance = update(rule, [0.0], [1.0], ([4.0], [5.0], [8.0]))
    assert (mean, variance) == ([1.0], [2.0])
    assert update(rule, mean, variance, ([5.0], [2.0], [8.0])) == [[2.0], [2.0]]


def test_limits_of_momentum_and_the_fixed_point():
    batch = ([3.0], [2.0], [4.0])
    assert update(MovingAverage(0.0, 0.0), [9.0], [9.0], batch) == [[3.0], [2.0]]
    assert update(MovingAverage(1.0, 0.0), [9.0], [9.0], batch) == [[9.0], [9.0]]
    fixed = update(MovingAverage(0.3, 0.0), [3.0], [2.0], batch)
    np.testing.assert_allclose(fixed, [[3.0], [2.0]], rtol=1e-7)


def test_a_count_of_zero_or_a_false_gate_changes_nothing():
    rule = MovingAverage(0.5, 0.0)
    assert update(rule, [1.0], [2.0], ([0.0], [0.0], [0.0])) == [[1.0], [2.0]]
    batch = ([3.0], [4.0], [2.0])
    assert update(rule, [1.0], [2.0], batch, tf.constant(False)) == [[1.0], [2.0]]
    assert update(rule, [1.0], [2.0], batch, tf.constant(True)) == [[2.0], [3.0]]


@pytest.mark.parametrize("size, factor", [(1.0, 1.0), (1.0 + 1e-10, 1.0), (1.5, 3.0), (4.0, 4 / 3)])
def test_unbiased_uses_the_effective_size_where_it_is_above_one(size, factor):
    rule = MovingAverage(0.0, 0.0, unbiased=True)
    _, variance = update(rule, [0.0], [0.0], ([0.0], [6.0], [9.0], [size]))
    np.testing.assert_allclose(variance, [6.0 * factor], rtol=1e-6)


@pytest.mark.parametrize("mean, variance", [(np.nan, 1.0), (np.inf, 1.0), (0.0, np.nan)])
def test_a_nonfinite_batch_is_skipped(mean, variance):
    batch = ([mean, 5.0], [variance, 5.0], [4.0])
    kept = update(MovingAverage(0.5, 0.0, skip_nonfinite=True), [1.0, 1.0], [2.0, 2.0], batch)
    assert kept == [[1.0, 1.0], [2.0, 2.0]]
    spoiled = update(MovingAverage(0.5, 0.0), [1.0, 1.0], [2.0, 2.0], batch)
    assert not np.isfinite(spoiled).all()


def test_max_update_bounds_mean_and_standard_deviation():
    rule = MovingAverage(0.0, 0.0, max_update=3.0)
    assert update(rule, [10.0], [4.0], ([1e6], [4.0], [8.0])) == [[16.0], [4.0]]
    assert update(rule, [10.0], [4.0], ([-1e6], [4.0], [8.0])) == [[4.0], [4.0]]
    assert update(rule, [10.0], [4.0], ([10.0], [1e12], [8.0])) == [[10.0], [64.0]]
    inside = ([11.0], [5.0], [8.0])
    assert update(rule, [10.0], [4.0], inside) == [[11.0], [5.0]]
    narrow = MovingAverage(0.0, 0.0, max_update=0.5)
    assert update(narrow, [0.0], [4.0], ([0.0], [0.0], [8.0])) == [[0.0], [1.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_max_update_skips_nonfinite_channels(bad):
    rule = MovingAverage(0.5, 0.0, max_update=2.0)
    updated = update(rule, [0.0, 0.0], [1.0, 1.0], ([bad, 1.0], [1.0, 3.0], [8.0]))
    assert updated == [[0.0, 0.5], [1.0, 2.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_skipped_values_do_not_reach_the_state(bad):
    spoiled = ([bad], [bad], [8.0])
    assert update(MovingAverage(1.0, 0.0), [1.0], [2.0], spoiled) == [[1.0], [2.0]]
    closed = update(MovingAverage(0.5, 0.0), [1.0], [2.0], spoiled, tf.constant(False))
    assert closed == [[1.0], [2.0]]
    recovered = update(MovingAverage(0.0, 0.0), [bad], [bad], ([3.0], [4.0], [8.0]))
    assert recovered == [[3.0], [4.0]]


def test_virtual_batches_are_averaged_by_count():
    batch = ([[1.0], [5.0]], [[3.0], [8.0]], [[3.0], [1.0]])
    assert update(MovingAverage(0.0, 0.0), [9.0], [9.0], batch) == [[2.0], [4.25]]
    stddevs = MovingAverage(0.0, 1.0, MOVING_STDDEV)  # sqrt(3 + 1) three times, sqrt(8 + 1) once
    assert update(stddevs, [9.0], [9.0], batch) == [[2.0], [2.25]]
