"""`SyncBatchNormalization`: k replicas compute what one computes on the concatenated batch."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_norms
from keras_norms.keras_api import IS_KERAS_3
from tests import oracles, strategies
from tests.selection import BOTH, examples

pytestmark = BOTH

CHANNELS = 3
GAMMA, BETA = np.array([1.2, 0.8, -0.7]), np.array([0.1, -0.3, 0.5])
MOVING = np.array([0.2, -0.1, 0.0]), np.array([1.5, 0.7, 1.0])


def local_values(strategy, variable):
    """Every replica's component of a variable, before they are averaged on reading."""
    raw = variable.value if IS_KERAS_3 else variable
    return np.stack([np.asarray(v) for v in strategy.experimental_local_results(raw)])


@functools.cache
def replicated_step(replicas, dtype, masked, kind=keras_norms.SyncBatchNormalization, options=()):
    """The layer and its traced training step on any number of rows a replica."""
    strategy = strategies.mirrored(replicas)
    with strategy.scope():
        layer = kind(momentum=0.9, dtype=dtype, **dict(options))
        layer.build((None, None, CHANNELS))

    def replica(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask if masked else None)
        return y, *tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)

    @functools.partial(tf.function, autograph=False, reduce_retracing=True)
    def step(*arguments):
        return strategy.run(replica, args=arguments)

    return strategy, layer, step


def reset(layer):
    for variable, value in zip(
        (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance),
        (GAMMA, BETA, *MOVING),
        strict=True,
    ):
        variable.assign(tf.cast(value, variable.dtype))


def run(replicas, dtype, x, dy, mask, cuts, **options):
    """Outputs by replica and the states of every replica after one step."""
    masked = mask is not None
    mask = np.ones(x.shape[:2]) if mask is None else mask
    strategy, layer, step = replicated_step(replicas, dtype, masked, **options)
    reset(layer)
    shards = [
        [tf.constant(part) for part in np.split(t, cuts)]
        for t in (x.astype(dtype), dy.astype(dtype), mask.astype(np.float32))
    ]
    results = step(*(strategies.distribute(strategy, values) for values in shards))
    local = [[np.asarray(v) for v in strategy.experimental_local_results(r)] for r in results]
    states = [local_values(strategy, v) for v in (layer.moving_mean, layer.moving_variance)]
    return *local, *states


def check_equals_the_whole(replicas, dtype, x, dy, mask, cuts):
    y, dx, dgamma, dbeta, mean, variance = run(replicas, dtype, x, dy, mask, cuts)
    exact_x, exact_dy = x.astype(dtype).astype(np.float64), dy.astype(dtype).astype(np.float64)
    expected_y, (count, batch_mean, batch_variance) = oracles.batch_norm(
        exact_x, GAMMA, BETA, 1e-3, mask=mask
    )
    gradients = oracles.batch_norm_gradients(exact_x, exact_dy, GAMMA, 1e-3, mask=mask)
    tolerance = dict(rtol=1e-5, atol=1e-5) if dtype == "float32" else dict(rtol=1e-12, atol=1e-12)
    if count.max() > 0:
        np.testing.assert_allclose(np.concatenate(y), expected_y, **tolerance)
        scale = np.abs(gradients[0]).max()
        np.testing.assert_allclose(np.concatenate(dx) / scale, gradients[0] / scale, **tolerance)
        for actual, expected in ((dgamma, gradients[1]), (dbeta, gradients[2])):
            scale = np.abs(dy).sum()
            np.testing.assert_allclose(
                np.sum(actual, 0) / scale, np.ravel(expected) / scale, **tolerance
            )
    moved = [
        oracles.moving(old, np.ravel(new), 0.9) if count.max() > 0 else old
        for old, new in zip(MOVING, (batch_mean, batch_variance), strict=True)
    ]
    for actual, expected in zip((mean, variance), moved, strict=True):
        np.testing.assert_allclose(actual, np.stack([expected] * replicas), **tolerance)
    return y, dx


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@examples(12)
@given(data=st.data())
def test_any_split_equals_the_whole(replicas, dtype, data):
    """Uneven, empty and fully masked replicas included."""
    cuts = sorted(data.draw(st.integers(0, 8)) for _ in range(replicas - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    x, dy = rng.normal(1.0, 2.0, (8, 2, CHANNELS)), rng.normal(size=(8, 2, CHANNELS))
    mask = None
    if data.draw(st.booleans()):
        mask = rng.integers(0, 3, (8, 2)).astype(np.float64)
        empty = data.draw(st.integers(0, replicas - 1))
        bounds = [0, *cuts, 8]
        mask[bounds[empty] : bounds[empty + 1]] = 0.0
    check_equals_the_whole(replicas, dtype, x, dy, mask, cuts)


def test_golden_vectors_on_shards_of_three_one_and_no_rows():
    x = np.array([[1.0, 2, 0], [2, 0, 0], [4, 1, 0], [9, -3, 0]])[:, None]
    dy = np.array([[1.0, -1, 0], [0.5, 2, 0], [-1, 0, 0], [2, 1, 0]])[:, None]
    y, dx, dgamma, dbeta, *_ = run(4, "float64", x, dy, None, [3, 4, 4])
    scale = np.array([1.5, 0.5]) / GAMMA[:2]
    golden = [[0.41297828, -0.2100155], [0.09282936, 0.4008346]]
    golden += [[-0.79078781, -0.03820198], [0.28498017, -0.15261712]]
    np.testing.assert_allclose(np.concatenate(dx)[:, 0, :2] * scale, golden, atol=6e-9)
    np.testing.assert_allclose(dgamma[0][:2], [-1.29770307, -1.06889228], atol=5e-9)
    np.testing.assert_allclose(dgamma[1][:2], [3.24425768, -1.60333842], atol=5e-9)
    np.testing.assert_array_equal(dgamma[2:], np.zeros((2, 3)))


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("mean, stddev", [(1e4, 0.1), (1e6, 1.0)])
def test_exact_at_any_offset(rng, replicas, mean, stddev):
    x = rng.normal(mean, stddev, (64, 4, CHANNELS)).astype(np.float32)
    dy = rng.normal(size=x.shape).astype(np.float32)
    y, dx, _, _, means, variances = run(
        replicas, "float32", x, dy, None, [7, 20, 50][: replicas - 1]
    )
    expected, (_, _, variance) = oracles.batch_norm(x, GAMMA, BETA, 1e-3)
    expected_dx, *_ = oracles.batch_norm_gradients(x, dy, GAMMA, 1e-3)
    np.testing.assert_allclose(np.concatenate(y), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.concatenate(dx) * stddev, expected_dx * stddev, atol=1e-5, rtol=0)
    moved = oracles.moving(MOVING[1], np.ravel(variance), 0.9)
    np.testing.assert_allclose(variances[-1], moved, rtol=1e-6)


def test_masks_differ_between_replicas():
    """Statistics are those of the unmasked positions of all; stock does not synchronize."""
    x = np.arange(4.0 * 2 * 3).reshape(4, 2, 3) ** 1.5
    mask = np.array([[1, 1], [1, 0], [0, 0], [0, 1]], np.float64)
    check_equals_the_whole(2, "float64", x, np.ones_like(x), mask, [2])


def test_all_replicas_fully_masked_leave_every_state(rng):
    x, dy = rng.normal(size=(4, 2, CHANNELS)), rng.normal(size=(4, 2, CHANNELS))
    y, dx = check_equals_the_whole(4, "float32", x, dy, np.zeros((4, 2)), [1, 2, 3])
    assert np.isfinite(np.concatenate(y)).all() and np.isfinite(np.concatenate(dx)).all()


@pytest.mark.parametrize("masked", [False, True])
def test_groups_are_synchronized_separately(rng, masked):
    x, dy = rng.normal(size=(8, 2, CHANNELS)), rng.normal(size=(8, 2, CHANNELS))
    mask = rng.integers(0, 2, (8, 2)).astype(np.float64) if masked else None
    results = run(4, "float64", x, dy, mask, [1, 4, 6], options=(("group_size", 2),))
    y, dx = (np.concatenate(v) for v in results[:2])
    for rows, members in ((slice(0, 4), (0, 1)), (slice(4, 8), (2, 3))):
        part = None if mask is None else mask[rows]
        expected, (_, mean, _) = oracles.batch_norm(x[rows], GAMMA, BETA, 1e-3, mask=part)
        gradient, *_ = oracles.batch_norm_gradients(x[rows], dy[rows], GAMMA, 1e-3, mask=part)
        np.testing.assert_allclose(y[rows], expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(dx[rows], gradient, rtol=1e-11, atol=1e-12)
        for member in members:
            moved = oracles.moving(MOVING[0], np.ravel(mean), 0.9)
            np.testing.assert_allclose(results[4][member], moved, rtol=1e-12)


def test_a_nonfinite_batch_on_one_replica_is_skipped_on_all(rng):
    x = rng.normal(size=(4, 2, CHANNELS))
    x[0, 0, 1] = np.nan
    options = (("skip_nonfinite_updates", True),)
    results = run(4, "float64", x, x, None, [1, 2, 3], options=options)
    for actual, expected in zip(results[4:], MOVING, strict=True):
        np.testing.assert_allclose(actual, np.stack([expected] * 4), rtol=1e-15)


def test_unsynchronized_statistics_are_averaged_over_replicas_on_reading(rng):
    """Stock Keras 3 keeps the first replica's; an empty replica keeps its own."""
    x = rng.normal(5.0, 3.0, (6, 2, CHANNELS))
    kind = keras_norms.BatchNormalization
    results = run(2, "float32", x, x, None, [6], kind=kind)
    np.testing.assert_allclose(results[4][1], MOVING[0], rtol=1e-6)
    cuts, means = [2], []
    results = run(2, "float32", x, x, None, cuts, kind=kind)
    for part, actual in zip(np.split(x, cuts), results[4], strict=True):
        means.append(oracles.moving(MOVING[0], part.mean((0, 1)), 0.9))
        np.testing.assert_allclose(actual, means[-1], rtol=1e-5, atol=1e-5)
    _, layer, _ = replicated_step(2, "float32", False, kind=kind)
    np.testing.assert_allclose(
        tf.convert_to_tensor(layer.moving_mean), np.mean(means, 0), rtol=1e-5, atol=1e-5
    )


def test_second_order_gradients_over_replicas(rng):
    """The gradient of a gradient penalty over two replicas against differences on the whole."""
    x, dy = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    mask = np.array([1.0, 1.0, 0.0, 1.0])
    strategy = strategies.mirrored(2)
    with strategy.scope():
        layer = keras_norms.SyncBatchNormalization(dtype="float64")
        layer.build((None, 2))

    def penalty(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(dy * layer(x, training=True, mask=mask) ** 2)
        return tf.reduce_sum(tape.gradient(loss, x) ** 2)

    def second(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = penalty(x, dy, mask)
        return tape.gradient(value, x)

    function = tf.function(lambda *a: strategy.run(second, args=a), autograph=False)
    shards = [
        strategies.distribute(strategy, [tf.constant(p) for p in np.split(t, [3])])
        for t in (x, dy, mask)
    ]
    actual = np.concatenate(strategy.experimental_local_results(function(*shards)))
    expected = oracles.numerical_gradient(
        lambda x: penalty(tf.constant(x), tf.constant(dy), tf.constant(mask)), x
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7 * scale)
