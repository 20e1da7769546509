"""Local moments, their exact merge, and what becomes of segments."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_norms.ops.moments import Moments
from keras_norms.statistics.moments import MOMENTS
from tests import oracles
from tests.selection import BOTH, examples

pytestmark = [BOTH, pytest.mark.each_tensorflow]

X = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 1.0], [9.0, -3.0]])


def merged(parts):
    local = [
        MOMENTS.local(tf.constant(part), axis=1, weights=None, segment_size=None)[0]
        for part in parts
    ]
    return MOMENTS.finish(
        MOMENTS.merge([tf.stack(vectors) for vectors in zip(*local, strict=True)])
    )


def test_golden_vectors_of_uneven_and_empty_shards():
    moments = merged([X[:3], X[3:], X[4:]])
    np.testing.assert_allclose(moments.mean, [4.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(moments.variance, [9.5, 3.5], rtol=1e-15)
    np.testing.assert_array_equal(moments.count, [4.0])


@examples(50)
@given(
    cuts=st.lists(st.integers(0, 12), min_size=0, max_size=6),
    offset=st.sampled_from([0.0, 1e3, 1e6]),
    seed=st.integers(0, 2**16),
)
def test_merging_any_split_equals_the_whole(cuts, offset, seed):
    x = np.random.default_rng(seed).normal(offset, 1.0, (12, 3))
    moments = merged(np.split(x, sorted(cuts)))
    count, mean, variance = (np.ravel(v) for v in oracles.moments(x))
    assert moments.count.numpy() == count[0]
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-14, atol=1e-14)
    # A mean is known to its own rounding only, which shows in the distance between means.
    np.testing.assert_allclose(moments.variance, variance, rtol=1e-12 + 1e-15 * offset)


def test_empty_parts_change_nothing():
    for parts in ([X[:0], X], [X, X[:0]], [X[:0], X[:0], X]):
        np.testing.assert_allclose(merged(parts).variance, [9.5, 3.5], rtol=1e-15)


def test_no_values_give_zeros():
    for vector in merged([X[:0], X[:0]]):
        np.testing.assert_array_equal(vector, np.zeros(vector.shape))


@pytest.mark.parametrize("count", [0.0, 3.0])
def test_the_pullback_is_zero_where_the_count_is_zero(count):
    statistics = Moments(*(tf.constant([v], tf.float64) for v in (1.0, 2.0, count)))
    gradients = Moments(*(tf.constant([v], tf.float64) for v in (6.0, 9.0, 1.0)))
    back = MOMENTS.pullback(None, statistics, gradients)
    expected = [0.0, 0.0, 1.0] if count == 0 else [6.0, 2.0, 1.0]
    assert [float(v[0]) for v in (back.b, back.c, back.center)] == expected
    assert back.at_positions("dx") == "dx"
