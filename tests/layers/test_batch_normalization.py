"""`BatchNormalization` on one device: outputs, gradients and every state against the oracle."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_norms
from tests import oracles
from tests.layers.one_device import X, layer_with, states, step, tensors_of_step
from tests.selection import BOTH, examples

pytestmark = BOTH

DY = np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 0.0], [2.0, 1.0]])
GAMMA, BETA = [1.5, 0.5], [0.1, -0.2]


def test_golden_vectors():
    layer = keras_norms.BatchNormalization(dtype="float64")
    layer.build((None, 2))
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    y, dx, dgamma, dbeta = step(layer, X, DY)
    golden_y = [[-1.35991595, 0.33444614], [-0.8732773, -0.2]]
    golden_y += [[0.1, 0.06722307], [2.53319326, -1.00166921]]
    golden_dx = [[0.41297828, -0.2100155], [0.09282936, 0.4008346]]
    golden_dx += [[-0.79078781, -0.03820198], [0.28498017, -0.15261712]]
    np.testing.assert_allclose(y, golden_y, atol=5e-9)
    np.testing.assert_allclose(dx, golden_dx, atol=5e-9)
    np.testing.assert_allclose(dgamma, [1.94655461, -2.6722307], atol=5e-9)
    np.testing.assert_allclose(dbeta, [2.5, 2.0], atol=1e-15)
    np.testing.assert_allclose(states(layer), [[0.04, 0.0], [1.085, 1.025]], rtol=1e-14)


SHAPES = {
    "rank2": ((6, 3), -1),
    "rank3": ((4, 5, 3), -1),
    "nhwc": ((3, 4, 2, 5), -1),
    "nchw": ((3, 5, 4, 2), 1),
    "rank5": ((2, 3, 2, 2, 4), -1),
    "rank6_middle": ((2, 3, 2, 2, 2, 2), 3),
    "adjacent": ((4, 3, 2, 5), [1, 2]),
    "apart": ((4, 3, 2, 5), [1, -1]),
    "batch_axis": ((3, 4, 5), 0),
}


@pytest.mark.parametrize("shape, axis", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_training_step_and_inference(rng, shape, axis, masked, dtype):
    if masked and axis == 0:
        masked = [1.0, 0.0, 1.0, 2.0]
    x, dy = rng.normal(2.0, 3.0, shape), rng.normal(size=shape)
    x, dy = x.astype(dtype), dy.astype(dtype)
    mask = np.array(masked) if isinstance(masked, list) else None
    if masked is True:
        mask = np.arange(shape[0]) % 3 > 0
    layer = keras_norms.BatchNormalization(axis=axis, momentum=0.9, dtype=dtype)
    layer.build(shape)
    kept = [
        n if a in [b % len(shape) for b in np.atleast_1d(axis)] else 1 for a, n in enumerate(shape)
    ]
    gamma, beta = rng.normal(1.0, 0.2, kept), rng.normal(size=kept)
    layer.gamma.assign(gamma.reshape(layer.gamma.shape))
    layer.beta.assign(beta.reshape(layer.beta.shape))
    y, dx, dgamma, dbeta = step(layer, x, dy, mask=None if mask is None else tf.constant(mask))
    expected_y, (_, mean, variance) = oracles.batch_norm(x, gamma, beta, 1e-3, axis, mask)
    gradients = oracles.batch_norm_gradients(x, dy, gamma, 1e-3, axis, mask)
    terms = np.prod(shape) / np.prod(kept)
    oracles.assert_close(y, expected_y, dtype)
    oracles.assert_close(dx, gradients[0], dtype, terms)
    oracles.assert_close(dgamma, gradients[1].reshape(dgamma.shape), dtype, terms)
    oracles.assert_close(dbeta, gradients[2].reshape(dbeta.shape), dtype, terms)
    moving = [oracles.moving(0.0, mean, 0.9), oracles.moving(1.0, variance, 0.9)]
    for actual, expected in zip(states(layer), moving, strict=True):
        oracles.assert_close(actual, expected.reshape(actual.shape), dtype)
    inference = gamma * (x - moving[0]) / np.sqrt(moving[1] + 1e-3) + beta
    oracles.assert_close(layer(x, training=False), inference, dtype)


@examples(60)
@given(data=st.data())
def test_any_shape_axis_dtype_and_mask(data):
    rank = data.draw(st.integers(2, 5), "rank")
    shape = tuple(data.draw(st.integers(1, 4), f"size {a}") for a in range(rank))
    axis = data.draw(st.integers(-rank, rank - 1).filter(lambda a: a % rank != 0), "axis")
    dtype = data.draw(st.sampled_from(["float16", "bfloat16", "float32", "float64"]), "dtype")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16), "seed"))
    rows = [n for a, n in enumerate(shape) if a != axis % rank]
    mask = None
    if data.draw(st.booleans(), "masked"):
        mask = rng.integers(0, 2, rows[: data.draw(st.integers(1, rank - 1))])
    x = tf.cast(rng.normal(size=shape), dtype)
    dy = tf.cast(rng.normal(size=shape), dtype)
    exact_x, exact_dy = (tf.cast(t, tf.float64).numpy() for t in (x, dy))
    layer = keras_norms.BatchNormalization(axis=axis, momentum=0.5, epsilon=0.1, dtype=dtype)
    y, dx, dgamma, dbeta = step(layer, x, dy, mask=mask)
    expected_y, (count, mean, variance) = oracles.batch_norm(exact_x, 1.0, 0.0, 0.1, axis, mask)
    gradients = oracles.batch_norm_gradients(exact_x, exact_dy, 1.0, 0.1, axis, mask)
    if np.all(count > 0):
        oracles.assert_close(y, expected_y, dtype)
        scale = np.abs(exact_dy).max() / np.sqrt(variance.min() + 0.1)
        oracles.assert_close(dx, gradients[0], dtype, 10, scale)
    else:
        # Nothing counts: as in inference with the initial state.
        oracles.assert_close(y, exact_x / np.sqrt(1.1), dtype)
        oracles.assert_close(dx, exact_dy / np.sqrt(1.1), dtype)
    state_dtype = "float64" if dtype == "float64" else "float32"
    counts = np.ravel(count) > 0
    expected = [np.where(counts, 0.5 * np.ravel(mean), 0.0)]
    expected += [np.where(counts, 0.5 + 0.5 * np.ravel(variance), 1.0)]
    largest = np.abs(exact_x).max()  # A mean may be near 0 while what is added up is not.
    for actual, state, scale in zip(states(layer), expected, (largest, largest**2), strict=True):
        assert actual.dtype == state_dtype
        oracles.assert_close(actual, state, state_dtype, 1, scale)


@pytest.mark.parametrize("mean, stddev", [(1e4, 0.1), (1e6, 1.0)])
@pytest.mark.parametrize("shape", [(512, 4), (8, 28, 28, 4)])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "jit"])
def test_exact_at_any_offset(rng, mean, stddev, shape, jit_compile):
    """Output and dx within 1e-5 sigma; stock Keras is off by 5e-3 and 1.2e-2."""
    x = rng.normal(mean, stddev, shape).astype(np.float32)
    dy = rng.normal(size=shape).astype(np.float32)
    layer = layer_with(4, "float32", rng, len(shape), epsilon=1e-6)
    gamma, beta = (
        np.asarray(tf.convert_to_tensor(v), np.float64) for v in (layer.gamma, layer.beta)
    )
    run = functools.partial(tensors_of_step, layer)
    if jit_compile:
        run = tf.function(run, jit_compile=True)
    y, dx, dgamma, _ = map(np.asarray, run(tf.constant(x), tf.constant(dy)))
    expected, _ = oracles.batch_norm(x, gamma, beta, 1e-6)
    expected_dx, expected_dgamma, _ = oracles.batch_norm_gradients(x, dy, gamma, 1e-6)
    np.testing.assert_allclose(y, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(dx * stddev, expected_dx * stddev, atol=1e-5, rtol=0)
    oracles.assert_close(dgamma, np.ravel(expected_dgamma), "float32", x.size / 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
def test_half_precision_keeps_float32_weights_and_statistics(dtype):
    layer = keras_norms.BatchNormalization(dtype=dtype, momentum=0.0)
    compute = dtype.replace("mixed_", "")
    x = tf.cast(tf.constant([[60000.0], [59904.0]] * 500), compute)
    y = layer(x, training=True)
    assert y.dtype == compute
    for weight in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        assert tf.convert_to_tensor(weight).dtype == tf.float32
    exact = tf.cast(x, tf.float64).numpy()
    np.testing.assert_allclose(states(layer)[0], exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(states(layer)[1], exact.var(0), rtol=1e-6)
    oracles.assert_close(
        tf.cast(y, tf.float64), oracles.batch_norm(exact, 1.0, 0.0, 1e-3)[0], compute
    )


def test_virtual_batches_with_a_remainder(rng):
    """Rows 0-2, 3-5 and 6 alone; the moving statistics average them by count."""
    x, dy = rng.normal(size=(7, 2, 3)), rng.normal(size=(7, 2, 3))
    layer = layer_with(3, rng=rng, rank=3, virtual_batch_size=3, momentum=0.0)
    gamma, beta = (np.asarray(tf.convert_to_tensor(v)) for v in (layer.gamma, layer.beta))
    y, dx, dgamma, _ = step(layer, x, dy)
    parts = [slice(0, 3), slice(3, 6), slice(6, 7)]
    expected = [oracles.batch_norm(x[p], gamma, beta, 1e-3) for p in parts]
    gradients = [oracles.batch_norm_gradients(x[p], dy[p], gamma, 1e-3) for p in parts]
    oracles.assert_close(y, np.concatenate([e[0] for e in expected]), "float64")
    oracles.assert_close(dx, np.concatenate([g[0] for g in gradients]), "float64", 10)
    oracles.assert_close(dgamma, np.ravel(sum(g[1] for g in gradients)), "float64", 10)
    counts = np.array([6, 6, 2])[:, None]
    for actual, i in zip(states(layer), (1, 2), strict=True):
        values = np.stack([np.ravel(e[1][i]) for e in expected])
        oracles.assert_close(actual, (counts * values).sum(0) / 14, "float64")


@pytest.mark.filterwarnings("ignore:.*a virtual batch of one value per channel")
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_virtual_batches_of_unknown_batch_size(batch):
    layer = layer_with(2, virtual_batch_size=2)
    call = tf.function(
        lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, 2], tf.float64)]
    )
    x = np.arange(2.0 * batch).reshape(batch, 2)
    assert np.isfinite(call(tf.constant(x))).all()


@pytest.mark.parametrize("masked", [False, True])
def test_second_order_gradients(rng, masked):
    x = rng.normal(size=(4, 3, 2))
    mask = tf.constant([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]]) if masked else None
    layer = layer_with(2, rng=rng, rank=3)
    dy = rng.normal(size=x.shape)

    def penalty(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(dy * layer(x, training=True, mask=mask) ** 2)
        return tf.reduce_sum(tape.gradient(loss, x) ** 2)

    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = penalty(tensor)
    expected = oracles.numerical_gradient(lambda x: penalty(tf.constant(x)), x)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(tape.gradient(value, tensor), expected, rtol=1e-6, atol=1e-7 * scale)
