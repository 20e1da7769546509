"""`BatchNormalization` on one device: outputs, gradients and every state against the oracle."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_norms
from keras_norms.layers import keras_api
from keras_norms.layers.keras_api import keras
from tests import oracles

X = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 1.0], [9.0, -3.0]])
DY = np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 0.0], [2.0, 1.0]])
GAMMA, BETA = [1.5, 0.5], [0.1, -0.2]


def layer_with(channels, dtype="float64", rng=None, rank=2, **options):
    """A built layer with weights that are not the identity."""
    rng = rng or np.random.default_rng(3)
    layer = keras_norms.BatchNormalization(dtype=dtype, **options)
    layer.build((*[None] * (rank - 1), channels))
    layer.gamma.assign(rng.normal(1.0, 0.2, channels))
    layer.beta.assign(rng.normal(0.0, 0.2, channels))
    return layer


def step(layer, x, dy, **call):
    """y, dx, dgamma, dbeta of one training call."""
    x, dy = tf.constant(x), tf.constant(dy)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **{"training": True, **call})
    gradients = tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)
    return [np.asarray(tf.cast(t, tf.float64)) for t in (y, *gradients)]


def states(layer):
    return [np.asarray(tf.convert_to_tensor(w)) for w in (layer.moving_mean, layer.moving_variance)]


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


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
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
    for actual, state in zip(states(layer), expected, strict=True):
        assert actual.dtype == state_dtype
        oracles.assert_close(actual, state, state_dtype, 100)


@pytest.mark.parametrize("mean, stddev", [(1e4, 0.1), (1e6, 1.0)])
@pytest.mark.parametrize("shape", [(512, 4), (8, 28, 28, 4)])
def test_exact_at_any_offset(rng, mean, stddev, shape):
    """Output and dx within 1e-5 sigma; stock Keras is off by 5e-3 and 1.2e-2."""
    x = rng.normal(mean, stddev, shape).astype(np.float32)
    dy = rng.normal(size=shape).astype(np.float32)
    layer = layer_with(4, "float32", rng, len(shape), epsilon=1e-6)
    gamma, beta = (
        np.asarray(tf.convert_to_tensor(v), np.float64) for v in (layer.gamma, layer.beta)
    )
    y, dx, dgamma, _ = step(layer, x, dy)
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


def test_training_as_a_tensor_selects_and_gates(rng):
    layer = layer_with(2, rng=rng, momentum=0.5)
    layer.moving_mean.assign([0.3, -0.2])
    call = tf.function(lambda x, training: layer(x, training=training))
    before = states(layer)
    x = tf.constant(X)
    np.testing.assert_allclose(call(x, tf.constant(False)), layer(x, training=False), rtol=1e-13)
    np.testing.assert_array_equal(states(layer), before)
    trained = call(x, tf.constant(True))
    expected, (_, mean, _) = oracles.batch_norm(
        X, np.asarray(layer.gamma), np.asarray(layer.beta), 1e-3
    )
    oracles.assert_close(trained, expected, "float64")
    oracles.assert_close(states(layer)[0], 0.5 * before[0] + 0.5 * mean[0], "float64")


def test_a_tensor_for_training_that_is_false_isolates_a_nan(rng):
    layer = layer_with(2, rng=rng)
    x = X.copy()
    x[1, 0] = np.nan
    call = tf.function(lambda x, training: layer(x, training=training))
    y = call(tf.constant(x), tf.constant(False)).numpy()
    assert np.isnan(y[1, 0]) and np.isfinite(np.delete(y.ravel(), 2)).all()


@pytest.mark.parametrize("training", [None, False, 0, np.bool_(False)])
def test_inference_changes_nothing(training):
    layer = layer_with(2)
    before = states(layer)
    layer(tf.constant(X), training=training)
    np.testing.assert_array_equal(states(layer), before)


def test_frozen_layer_runs_in_inference_mode(rng):
    layer = layer_with(2, rng=rng)
    x = tf.constant(X)
    expected = layer(x, training=False)
    before = states(layer)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), expected)
    np.testing.assert_array_equal(states(layer), before)
    assert layer.trainable_variables == []


@pytest.mark.parametrize("shape", [(0, 2), (0, 3, 2)])
def test_an_empty_batch_changes_nothing(shape):
    layer = layer_with(2, rank=len(shape))
    before = states(layer)
    x = np.zeros(shape)
    y, dx, dgamma, dbeta = step(layer, x, x)
    assert y.shape == dx.shape == shape
    np.testing.assert_array_equal([dgamma, dbeta], np.zeros((2, 2)))
    np.testing.assert_array_equal(states(layer), before)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_fully_masked_batches_leave_every_state_and_stay_finite(dtype):
    layer = keras_norms.BatchNormalization(dtype=dtype)
    x = tf.constant([[1e4, np.nan], [-1e4, 2.0]], dtype)
    mask = tf.constant([False, False])
    for _ in range(3):
        y, dx, *_ = step(layer, x, tf.ones_like(x), mask=mask)
        assert np.isfinite(y).all() and np.isfinite(dx).all()
    np.testing.assert_array_equal(states(layer), [[0.0, 0.0], [1.0, 1.0]])


def test_masked_nan_gives_beta_and_finite_gradients_on_both_sides(rng):
    """NaN at masked positions: y = beta there, and what follows has finite gradients."""
    x = rng.normal(size=(3, 4, 2))
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], bool)
    spoiled = np.where(mask[..., None], x, np.nan)
    layer, dense = layer_with(2, rng=rng, rank=3), keras.layers.Dense(3, dtype="float64")
    dense.build((None, None, 2))
    results = []
    for values in (spoiled, x):
        tensor = tf.constant(values)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            y = layer(tensor, training=True, mask=tf.constant(mask))
            loss = tf.reduce_sum(dense(y)[mask] ** 2)
        targets = [tensor, *layer.trainable_variables, *dense.trainable_variables]
        results.append([y.numpy(), *(np.asarray(g) for g in tape.gradient(loss, targets))])
    spoiled_results, clean_results = results
    beta = np.asarray(tf.convert_to_tensor(layer.beta))
    np.testing.assert_array_equal(spoiled_results[0][~mask], np.broadcast_to(beta, (6, 2)))
    np.testing.assert_array_equal(spoiled_results[0][mask], clean_results[0][mask])
    assert all(np.isfinite(gradient).all() for gradient in spoiled_results)
    np.testing.assert_array_equal(spoiled_results[1][mask], clean_results[1][mask])


def test_infinity_in_the_data_is_not_hidden():
    layer = layer_with(2)
    x = X.copy()
    x[0, 0] = np.inf
    assert np.isnan(layer(tf.constant(x), training=True).numpy()[:, 0]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_skip_nonfinite_updates(bad):
    layer = layer_with(2, skip_nonfinite_updates=True)
    before = states(layer)
    x = X.copy()
    x[0, 0] = bad
    layer(tf.constant(x), training=True)
    np.testing.assert_array_equal(states(layer), before)
    layer(tf.constant(X), training=True)
    assert not np.array_equal(states(layer)[0], before[0])


def test_max_update_bounds_a_poisoned_batch():
    layer = layer_with(2, max_update=3.0, momentum=0.99)
    layer(tf.constant(X * 1e9), training=True)
    mean, variance = states(layer)
    assert np.all(np.abs(mean) <= 0.0301 * np.sqrt(1.001))
    assert np.all(variance <= 1.0 + 0.01 * 16.1)


def test_unbiased_moving_variance():
    layer = layer_with(2, unbiased_moving_variance=True, momentum=0.0)
    layer(tf.constant(X), training=True)
    np.testing.assert_allclose(states(layer)[1], [38 / 3, 14 / 3], rtol=1e-14)


def test_without_center_and_scale():
    layer = keras_norms.BatchNormalization(center=False, scale=False, dtype="float64")
    y = layer(tf.constant(X), training=True)
    oracles.assert_close(y, oracles.batch_norm(X, 1.0, 0.0, 1e-3)[0], "float64")
    assert [w.name.split("/")[-1].split(":")[0] for w in layer.weights] == [
        "moving_mean",
        "moving_variance",
    ]
    oracles.assert_close(
        layer(tf.constant(X), training=False),
        (X - states(layer)[0]) / np.sqrt(states(layer)[1] + 1e-3),
        "float64",
    )


def test_regularizers_constraints_and_initializers():
    layer = keras_norms.BatchNormalization(
        gamma_initializer=keras.initializers.Constant(2.0),
        beta_initializer=keras.initializers.Constant(-3.0),
        moving_mean_initializer=keras.initializers.Constant(4.0),
        moving_variance_initializer=keras.initializers.Constant(5.0),
        gamma_regularizer=keras.regularizers.L1(0.5),
        beta_regularizer=keras.regularizers.L2(1.0),
        gamma_constraint="non_neg",
    )
    layer.build((None, 2))
    assert [float(np.asarray(tf.convert_to_tensor(w))[0]) for w in layer.weights] == [2, -3, 4, 5]
    assert sorted(float(loss) for loss in layer.losses) == [2.0, 18.0]
    assert layer.gamma.constraint is not None


def test_sizes_unknown_at_tracing_time(rng):
    layer = layer_with(3, "float32", rng, 4)
    signature = [tf.TensorSpec([None, None, None, 3])]
    call = tf.function(lambda x: layer(x, training=True), input_signature=signature)
    for shape in [(2, 3, 4, 3), (1, 1, 1, 3), (0, 2, 2, 3)]:
        x = rng.normal(size=shape).astype(np.float32)
        gamma, beta = np.asarray(layer.gamma), np.asarray(layer.beta)
        expected = oracles.batch_norm(x, gamma, beta, 1e-3)[0]
        oracles.assert_close(call(tf.constant(x)), expected, "float32")


def test_rejects_another_backend(monkeypatch):
    monkeypatch.setattr(keras_api, "backend_name", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"TensorFlow backend of Keras. Received: .*'jax'"):
        keras_norms.SyncBatchNormalization()


REJECTED = {
    "axis": (dict(axis=1.5), r"`axis` must be an int or a list of ints. Received: axis=1.5"),
    "axis_empty": (dict(axis=[]), r"`axis` must be an int or a list"),
    "momentum": (dict(momentum=1.2), r"`momentum` must be a number in \[0, 1\].*momentum=1.2"),
    "momentum_nan": (dict(momentum=float("nan")), r"`momentum` must be a number"),
    "epsilon": (dict(epsilon=-1e-3), r"`epsilon` must be a finite number.*epsilon=-0.001"),
    "virtual": (dict(virtual_batch_size=0), r"`virtual_batch_size` must be a positive int"),
    "virtual_bool": (dict(virtual_batch_size=True), r"`virtual_batch_size` must be a positive"),
    "group": (dict(group_size=-1, synchronized=True), r"`group_size` must be a positive int"),
    "group_alone": (dict(group_size=2), r"`group_size` needs `synchronized=True`"),
    "both": (dict(virtual_batch_size=2, synchronized=True), r"cannot be synchronized"),
    "max_update": (dict(max_update=0.0), r"`max_update` must be a positive number or None"),
}


@pytest.mark.parametrize("arguments, message", REJECTED.values(), ids=REJECTED)
def test_rejects_arguments(arguments, message):
    with pytest.raises(ValueError, match="BatchNormalization 'bn': .*" + message):
        keras_norms.BatchNormalization(name="bn", **arguments)


@pytest.mark.parametrize(
    "arguments, shape, message",
    [
        ({}, (None, 4, None), r"size of a channel axis must be known.*axis=-1"),
        (dict(axis=3), (None, 4, 2), r"`axis` must lie in \[-3, 3\).*axis=3"),
        (dict(axis=[1, -2]), (None, 4, 2), r"must not name an axis twice"),
        (dict(axis=0, virtual_batch_size=2), (4, 2), r"cannot be a channel axis.*axis=0"),
        ({}, (4,), r"leave at least one to reduce"),
    ],
)
def test_rejects_shapes(arguments, shape, message):
    layer = keras_norms.BatchNormalization(name="bn", **arguments)
    with pytest.raises(ValueError, match="BatchNormalization 'bn': .*" + message):
        layer.build(shape)


def test_rejects_an_axis_out_of_range_in_compute_output_shape():
    with pytest.raises(ValueError, match=r"must lie in \[-2, 2\)"):
        keras_norms.BatchNormalization(axis=2).compute_output_shape((None, 3))


@pytest.mark.parametrize("training", [True, False])
def test_rejects_a_mask_that_cannot_apply(training):
    layer = keras_norms.BatchNormalization(name="bn")
    with pytest.raises(ValueError, match=r"'bn': a mask must have the shape of the leading"):
        layer(tf.ones((2, 3, 4)), mask=tf.ones((3, 2), tf.bool), training=training)
    np.testing.assert_array_equal(states(layer)[0], np.zeros(4))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mask_shape", [(4,), (4, 5), (4, 1, 5)])
def test_masks_with_channels_first(rng, channels, mask_shape):
    """Stock raises for each of these, and for a single channel (D-08)."""
    x = rng.normal(size=(4, channels, 5))
    mask = rng.integers(0, 2, mask_shape)
    mask.flat[0] = 1
    layer = keras_norms.BatchNormalization(axis=1, momentum=0.0, dtype="float64")
    y = layer(tf.constant(x), training=True, mask=tf.constant(mask))
    expected, (_, mean, _) = oracles.batch_norm(x, 1.0, 0.0, 1e-3, axis=1, mask=mask)
    oracles.assert_close(y, expected, "float64")
    oracles.assert_close(states(layer)[0], np.ravel(mean), "float64")
