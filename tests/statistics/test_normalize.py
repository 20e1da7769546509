"""The composite: its two seams with layers of the test's own, its traffic, its refusals."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.statistics.moments import Pullback
from keras_norms.statistics.normalize import ALONE, normalize_batch
from keras_norms.statistics.replicas import ReplicaGroup
from tests import oracles, strategies
from tests.selection import BOTH

pytestmark = [BOTH, pytest.mark.each_tensorflow]

EPSILON = 1e-3
SPLITS = {1: [6], 2: [4, 2], 4: [3, 0, 1, 2]}


def batch_norm(statistics, gamma, beta):
    return gamma * tf.math.rsqrt(statistics.variance + EPSILON), statistics.mean, beta


def penalized(target_mean, target_variance):
    """The transform of a layer with a penalty on the gap between batch and target statistics."""

    def transform(statistics, gamma, beta):
        gap = tf.reduce_sum(tf.math.squared_difference(statistics.mean, target_mean))
        gap += tf.reduce_sum(tf.math.squared_difference(statistics.variance, target_variance))
        return *batch_norm(statistics, gamma, beta), gap

    return transform


class Range(NamedTuple):
    mean: tf.Tensor
    range: tf.Tensor
    count: tf.Tensor


class RangeStatistic:
    """Mean, and the range of values averaged over replicas by count. `(rows, channels)` only."""

    def local(self, x, *, axis, weights, segment_size):
        count = tf.cast(tf.shape(x)[:1], tf.float64)
        extent = tf.reduce_max(x, 0) - tf.reduce_min(x, 0)
        mean = tf.math.divide_no_nan(tf.reduce_sum(x, 0), count)
        return (count, mean, tf.where(count > 0.0, extent, 0.0)), (x, count)

    def merge(self, parts):
        counts, means, ranges = parts
        count = tf.reduce_sum(counts, 0)
        sums = [tf.reduce_sum(counts * values, 0) for values in (means, ranges)]
        return count, *(tf.math.divide_no_nan(total, count) for total in sums)

    def finish(self, parts):
        count, mean, extent = parts
        return Range(mean, extent, count)

    def pullback(self, kept, statistics, gradients):
        """The mean's gradient goes through `blend`, that of the extremes to two positions."""
        x, count = kept
        share = gradients.range * tf.math.divide_no_nan(count, statistics.count)
        extremes = [tf.stop_gradient(extreme(x, 0)) for extreme in (tf.reduce_max, tf.reduce_min)]
        at = [tf.cast(x == extreme, x.dtype) for extreme in extremes]
        return Pullback(
            c=tf.math.divide_no_nan(gradients.mean, statistics.count),
            at_positions=lambda dx: dx + share * (at[0] - at[1]),
        )


def range_norm(statistics, gamma, beta):
    return gamma / (statistics.range + EPSILON), statistics.mean, beta


def step(x, dy, gamma, beta, transform, **options):
    """y, the penalty, and the gradients of `sum(dy * y) + penalty` for this replica's share."""
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y, _, extras, _ = normalize_batch(x, transform, dict(gamma=gamma, beta=beta), **options)
        loss = tf.reduce_sum(dy * y)
        for extra in extras:
            loss += extra / replicas
    return y, extras, tape.gradient(loss, [x, gamma, beta])


def split_run(replicas, x, dy, gamma, beta, transform, **options):
    """The same step with the rows split over replicas; parameter gradients added up."""
    strategy = strategies.mirrored(replicas)
    bounds = np.cumsum(SPLITS[replicas])[:-1]
    shards = [[tf.constant(part) for part in np.split(t, bounds)] for t in (x, dy)]

    def replica(x, dy):
        return step(
            x, dy, tf.constant(gamma), tf.constant(beta), transform, group=ReplicaGroup(), **options
        )

    function = tf.function(lambda x, dy: strategy.run(replica, args=(x, dy)), autograph=False)
    distributed = [strategies.distribute(strategy, values) for values in shards]
    results = tf.nest.map_structure(strategy.experimental_local_results, function(*distributed))
    y, extras, (dx, dgamma, dbeta) = results
    return (
        np.concatenate(y),
        [[np.asarray(v) for v in extra] for extra in extras],
        np.concatenate(dx),
        np.sum(dgamma, 0),
        np.sum(dbeta, 0),
    )


def data(rng, rows=6, channels=2):
    return (rng.normal(size=(rows, channels)) for _ in range(2))


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_a_penalty_on_merged_statistics_reaches_the_input(rng, replicas):
    """On any number of replicas: the penalty once, its gradient through the global statistics."""
    x, dy = data(rng)
    gamma, beta = rng.normal(size=2), rng.normal(size=2)
    targets = np.array([0.5, -0.5]), np.array([2.0, 1.0])

    def loss(x):
        y, (_, mean, variance) = oracles.batch_norm(x, gamma, beta, EPSILON)
        gaps = [np.sum((v - t) ** 2) for v, t in zip((mean, variance), targets, strict=True)]
        return np.sum(dy * y) + sum(gaps), sum(gaps)

    y, extras, dx, dgamma, dbeta = split_run(replicas, x, dy, gamma, beta, penalized(*targets))
    expected_dx = oracles.numerical_gradient(lambda x: loss(x)[0], x)
    _, expected_dgamma, expected_dbeta = oracles.batch_norm_gradients(x, dy, gamma, EPSILON)
    np.testing.assert_allclose(extras[0], [loss(x)[1]] * replicas, rtol=1e-12)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(dgamma, expected_dgamma[0], rtol=1e-12)
    np.testing.assert_allclose(dbeta, expected_dbeta[0], rtol=1e-12)
    np.testing.assert_allclose(y, oracles.batch_norm(x, gamma, beta, EPSILON)[0], rtol=1e-12)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_a_statistic_other_than_moments(rng, replicas):
    x, dy = data(rng)
    gamma, beta = rng.normal(size=2), rng.normal(size=2)

    def forward(x):
        parts = [p for p in np.split(x, np.cumsum(SPLITS[replicas])[:-1]) if len(p)]
        extent = sum(len(p) * (p.max(0) - p.min(0)) for p in parts) / len(x)
        return gamma * (x - x.mean(0)) / (extent + EPSILON) + beta

    y, _, dx, _, dbeta = split_run(
        replicas, x, dy, gamma, beta, range_norm, statistic=RangeStatistic()
    )
    expected_dx = oracles.numerical_gradient(lambda x: np.sum(dy * forward(x)), x)
    np.testing.assert_allclose(y, forward(x), rtol=1e-12)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(dbeta, dy.sum(0), rtol=1e-12)


@pytest.mark.parametrize("replicas", [1, 4])
def test_an_extra_is_summed_over_replicas(rng, replicas):
    x, dy = data(rng)
    ones = np.ones(2)

    def transform(statistics, gamma, beta, extra):
        return *batch_norm(statistics, gamma, beta), extra

    strategy = strategies.mirrored(replicas)

    def replica(x):
        rows = tf.cast(tf.shape(x)[:1], tf.float64)
        y, _, (total,), _ = normalize_batch(
            x,
            transform,
            dict(gamma=tf.constant(ones), beta=tf.constant(ones)),
            extra=tf.concat([rows, 2.0 * rows, 0.0 * rows], 0),
            group=ReplicaGroup(),
        )
        return total

    function = tf.function(lambda x: strategy.run(replica, args=(x,)), autograph=False)
    shards = [tf.constant(p) for p in np.split(x, np.cumsum(SPLITS[replicas])[:-1])]
    totals = strategy.experimental_local_results(function(strategies.distribute(strategy, shards)))
    seen = [np.asarray(total).tolist() for total in totals]
    assert seen == [[6.0, 12.0, 0.0]] * replicas


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("mode", ["plain", "weights", "segments", "penalty"])
def test_second_order_gradients(rng, mode, traced):
    """The gradient of a gradient penalty, with respect to x and to gamma."""
    x, dy = data(rng, 5)
    gamma, beta = rng.normal(size=2), rng.normal(size=2)
    options = {
        "plain": {},
        "weights": dict(weights=tf.constant([[1.0], [0.0], [2.0], [1.0], [0.5]], tf.float64)),
        "segments": dict(segment_size=3),
        "penalty": {},
    }[mode]
    transform = penalized(np.ones(2), np.ones(2)) if mode == "penalty" else batch_norm

    def penalty(x, gamma):
        _, _, gradients = step(x, dy, gamma, tf.constant(beta), transform, group=ALONE, **options)
        return tf.reduce_sum(gradients[0] ** 2) + tf.reduce_sum(gradients[1] ** 3)

    def second(x, gamma):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma])
            value = penalty(x, gamma)
        return tape.gradient(value, [x, gamma])

    if traced:
        second = tf.function(second, autograph=False)
    of_x, of_gamma = second(tf.constant(x), tf.constant(gamma))
    tensors = tf.constant(x), tf.constant(gamma)
    expected_x = oracles.numerical_gradient(lambda t: penalty(tf.constant(t), tensors[1]), x)
    expected_gamma = oracles.numerical_gradient(
        lambda t: penalty(tensors[0], tf.constant(t)), gamma
    )
    scale = np.abs(expected_x).max()
    np.testing.assert_allclose(of_x, expected_x, rtol=1e-6, atol=1e-7 * scale)
    np.testing.assert_allclose(of_gamma, expected_gamma, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_backward_pass_keeps_nothing_large_but_its_inputs(weighted):
    """Read off the graph: which forward tensors of activation size do backward operations use?"""
    shape, marks = (4, 8, 8, 3), {}
    weights = tf.ones((4, 8, 8, 1)) if weighted else None

    def function(x, dy, gamma, beta, weights):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = normalize_batch(
                x, batch_norm64, dict(gamma=gamma, beta=beta), axis=-1, weights=weights
            ).y
        graph = tf.compat.v1.get_default_graph()
        marks["forward"] = set(graph.get_operations())
        return tape.gradient(y, x, output_gradients=dy)

    def batch_norm64(statistics, gamma, beta):
        return batch_norm(statistics, tf.cast(gamma, tf.float64), tf.cast(beta, tf.float64))

    concrete = tf.function(function, autograph=False).get_concrete_function(
        *(tf.TensorSpec(s) for s in (shape, shape, 3, 3)), weights
    )
    backward = [op for op in concrete.graph.get_operations() if op not in marks["forward"]]

    def source(tensor):
        while tensor.op.type in ("Identity", "IdentityN", "StopGradient"):
            tensor = tensor.op.inputs[tensor.value_index]
        return tensor

    used = {
        source(tensor).name
        for op in backward
        for tensor in op.inputs
        if tensor.op in marks["forward"] and tensor.shape.num_elements() >= 4 * 8 * 8
    }
    allowed = {tensor.name for tensor in concrete.inputs if tensor.shape.num_elements() >= 256}
    assert used <= allowed, used - allowed
    assert {concrete.inputs[0].name, concrete.inputs[1].name} <= used


def test_statistics_carry_no_gradient(rng):
    x = tf.constant(rng.normal(size=(4, 2)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        result = normalize_batch(x, batch_norm, dict(gamma=tf.ones(2, tf.float64), beta=x[0]))
        loss = tf.reduce_sum(result.statistics.variance)
    gradient = tape.gradient(loss, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    np.testing.assert_array_equal(gradient, np.zeros((4, 2)))


def test_rejects_a_transform_that_reads_a_variable(rng):
    variable = tf.Variable(np.ones(2))

    def transform(statistics):
        return variable * statistics.variance, statistics.mean, None

    with tf.GradientTape(), pytest.raises(TypeError, match="variables"):
        normalize_batch(tf.constant(rng.normal(size=(4, 2))), transform, {})
