"""`BatchRenormalization` against Algorithm 1 in NumPy float64, and what the paper says of it."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.schedules import LinearRamp
from tests import oracles, strategies
from tests.selection import BOTH

EPSILON = 1e-3
X = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 1.0], [9.0, -3.0]])
DY = np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 0.0], [2.0, 1.0]])
GAMMA, BETA = np.array([1.5, 0.5]), np.array([0.1, -0.2])
MEAN, STDDEV = np.array([3.0, 0.5]), np.array([2.0, 1.5])
INFINITE = float("inf")


def layer_with(channels=2, dtype="float64", kind=keras_norms.BatchRenormalization, **options):
    layer = kind(dtype=dtype, epsilon=EPSILON, **options)
    layer.build((None, channels))
    return with_values(layer, (GAMMA, BETA), (MEAN, STDDEV))


def with_values(layer, parameters, moving):
    names = ("gamma", "beta", "moving_mean", "moving_stddev")
    for name, value in zip(names, (*parameters, *moving), strict=True):
        if hasattr(layer, name):
            variable = getattr(layer, name)
            variable.assign(tf.cast(value, variable.dtype))
    return layer


def step(layer, x=X, dy=DY, mask=None):
    """y, dx, dgamma and dbeta of a training call, as NumPy."""
    x = tf.cast(x, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
    gradients = tape.gradient(
        y, [x, *layer.trainable_variables], output_gradients=tf.cast(dy, y.dtype)
    )
    return [tf.convert_to_tensor(value).numpy() for value in (y, *gradients)]


def oracle(x, dy, r_max, d_max, mask=None, momentum=0.99):
    """y, dx, dgamma, dbeta, and the new moving mean and standard deviation."""
    _, mean, variance = oracles.moments(x, mask=mask)
    stddev = np.sqrt(variance + EPSILON)
    r = np.clip(stddev / STDDEV, 1.0 / r_max, r_max)
    d = np.clip((mean - MEAN) / STDDEV, -d_max, d_max)
    y = GAMMA * ((x - mean) / stddev * r + d) + BETA
    dx, dgamma, dbeta = oracles.batch_norm_gradients(x, dy, GAMMA, EPSILON, mask=mask)
    moved = oracles.moving(MEAN, mean, momentum), oracles.moving(STDDEV, stddev, momentum)
    return [y, r * dx, *map(np.ravel, (r * dgamma + d * dbeta, dbeta, *moved))]


def state(layer):
    return [tf.convert_to_tensor(v).numpy() for v in (layer.moving_mean, layer.moving_stddev)]


@BOTH
@pytest.mark.parametrize("r_max, d_max", [(1.0, 0.0), (1.1, 0.5), (1.3, 0.1), (1e6, 1e6)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_is_algorithm_1(r_max, d_max, dtype):
    layer = layer_with(dtype=dtype, r_max=r_max, d_max=d_max)
    actual = [*step(layer), *state(layer)]
    for value, expected in zip(actual, oracle(X, DY, r_max, d_max), strict=True):
        oracles.assert_close(value, expected, dtype)
    assert int(tf.convert_to_tensor(layer.step)) == 1


def test_golden_vectors():
    layer = layer_with(r_max=1.1, d_max=0.5)
    y, dx, dgamma, dbeta = step(layer)
    golden_y = [
        [-0.75590755, 0.22122409],
        [-0.22060503, -0.36666667],
        [0.85, -0.07272129],
        [3.52651258, -1.2485028],
    ]
    golden_dx = [
        [0.45427611, -0.23101705],
        [0.10211229, 0.44091807],
        [-0.86986659, -0.04202218],
        [0.31347819, -0.16787883],
    ]
    np.testing.assert_allclose(y, golden_y, atol=6e-9)
    np.testing.assert_allclose(dx, golden_dx, atol=6e-9)
    np.testing.assert_allclose(dgamma, [3.39121007, -3.60612044], atol=6e-9)
    np.testing.assert_allclose(dbeta, [2.5, 2.0], atol=1e-12)
    np.testing.assert_allclose(state(layer)[0], [3.01, 0.495], atol=1e-12)
    np.testing.assert_allclose(state(layer)[1], [2.01082369, 1.50371096], atol=6e-9)


@BOTH
def test_without_clipping_training_computes_what_inference_does():
    layer = layer_with(r_max=INFINITE, d_max=INFINITE)
    inference = layer(X, training=False).numpy()
    np.testing.assert_allclose(layer(X, training=True), inference, rtol=1e-12)


@BOTH
@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-6), ("float64", 1e-12)])
def test_limits_of_1_and_0_are_batch_normalization(dtype, rtol, rng):
    x, dy = rng.normal(3.0, 2.0, (40, 2)), rng.normal(size=(40, 2))
    renorm = layer_with(dtype=dtype, r_max=1.0, d_max=0.0)
    plain = layer_with(dtype=dtype, kind=keras_norms.BatchNormalization)
    for one, other in zip(step(renorm, x, dy), step(plain, x, dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.abs(other).max())


def test_the_standard_deviation_is_averaged_not_the_variance():
    layer = layer_with(momentum=0.5)
    expected = STDDEV
    for factor in (1.0, 3.0, 0.2):
        layer(factor * X, training=True)
        expected = 0.5 * expected + 0.5 * np.sqrt((factor * X).var(0) + EPSILON)
    np.testing.assert_allclose(state(layer)[1], expected, rtol=1e-12)


@BOTH
def test_a_mask_excludes(rng):
    x, dy = rng.normal(3.0, 2.0, (6, 5, 2)), rng.normal(size=(6, 5, 2))
    mask = rng.uniform(size=(6, 5)) < 0.6
    layer = layer_with(r_max=1.2, d_max=0.3)
    actual = [*step(keyed(layer, x), x, dy, tf.constant(mask)), *state(layer)]
    for value, expected in zip(actual, oracle(x, dy, 1.2, 0.3, mask), strict=True):
        oracles.assert_close(value, expected, "float64", terms=30)


def keyed(layer, x):
    """The layer for inputs of the rank of x."""
    layer.input_spec = keras.layers.InputSpec(ndim=x.ndim, axes={x.ndim - 1: x.shape[-1]})
    return layer


def test_a_fully_masked_batch_is_inference_and_moves_the_step_only():
    layer = layer_with(r_max=2.0, d_max=1.0)
    before = state(layer)
    y = layer(X, training=True, mask=tf.zeros(4))
    np.testing.assert_allclose(y, layer(X, training=False), rtol=1e-12)
    np.testing.assert_array_equal(state(layer), before)


@BOTH
def test_virtual_batches_average_their_standard_deviations(rng):
    x = rng.normal(3.0, 2.0, (8, 2))
    layer = layer_with(r_max=1.2, d_max=0.3, virtual_batch_size=3, momentum=0.5)
    groups = x[:3], x[3:6], x[6:]
    expected = np.concatenate([oracle(g, g, 1.2, 0.3)[0] for g in groups])
    oracles.assert_close(layer(x, training=True), expected, "float64")
    stddevs = [np.sqrt(g.var(0) + EPSILON) for g in groups]
    pooled = np.average(stddevs, axis=0, weights=[3, 3, 2])
    oracles.assert_close(state(layer)[1], 0.5 * STDDEV + 0.5 * pooled, "float64")


def test_training_as_a_tensor_gates_state_and_step():
    layer = layer_with(r_max=1.1, d_max=0.5)
    call = tf.function(lambda training: layer(tf.constant(X), training=training))
    before = state(layer)
    np.testing.assert_allclose(call(tf.constant(False)), layer(X, training=False), rtol=1e-12)
    np.testing.assert_array_equal(state(layer), before)
    assert int(tf.convert_to_tensor(layer.step)) == 0
    oracles.assert_close(call(tf.constant(True)), oracle(X, DY, 1.1, 0.5)[0], "float64")
    assert int(tf.convert_to_tensor(layer.step)) == 1


def test_schedules_move_with_the_step_and_survive_saving(tmp_path):
    """The n-th training call, from 0, uses the limits at n; a loaded model continues there."""
    ramp = dict(r_max=LinearRamp(1, 5, 1.0, 1.4), d_max=LinearRamp(0, 4, 0.0, 0.4))
    norm = keras_norms.BatchRenormalization(dtype="float64", momentum=1.0, name="norm", **ramp)
    model = keras.Sequential([keras.Input((2,)), norm])
    with_values(norm, (GAMMA, BETA), (MEAN, STDDEV))
    call = tf.function(lambda m, x: m(x, training=True))
    for n in range(8):
        if n == 3:
            path = str(tmp_path / "model.keras")
            model.save(path)
            model = keras.models.load_model(path)
            call = tf.function(lambda m, x: m(x, training=True))
        r_max, d_max = 1.0 + 0.1 * np.clip(n - 1, 0, 4), 0.1 * min(n, 4)
        oracles.assert_close(call(model, tf.constant(X)), oracle(X, DY, r_max, d_max)[0], "float64")
    assert int(tf.convert_to_tensor(model.get_layer("norm").step)) == 8


def test_defaults_are_those_of_the_paper():
    layer = keras_norms.BatchRenormalization()
    assert [float(layer.r_max(n)) for n in (0, 5_000, 22_500, 40_000)] == [1.0, 1.0, 2.0, 3.0]
    assert [float(layer.d_max(n)) for n in (0, 5_000, 15_000, 25_000)] == [0.0, 0.0, 2.5, 5.0]
    assert layer.momentum == 0.99


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_synchronized_replicas_are_one_batch(replicas, masked, rng):
    """Outputs, gradients and every replica's state, with uneven shares and a mask."""
    sizes = {1: [9], 2: [6, 3], 4: [5, 0, 1, 3]}[replicas]
    x, dy = rng.normal(3.0, 2.0, (9, 2)), rng.normal(size=(9, 2))
    mask = rng.uniform(size=9) < 0.6 if masked else np.ones(9, bool)
    strategy = strategies.mirrored(replicas)
    with strategy.scope():
        layer = layer_with(r_max=1.2, d_max=0.3, synchronized=True)

    @tf.function
    def train(*arguments):
        def replica(x, dy, mask):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True, mask=mask if masked else None)
            return y, *tape.gradient(y, [x, layer.gamma, layer.beta], output_gradients=dy)

        return strategy.run(replica, args=arguments)

    cuts = np.cumsum(sizes)[:-1]
    shares = [
        strategies.distribute(strategy, [tf.constant(part) for part in np.split(value, cuts)])
        for value in (x, dy, mask)
    ]
    results = [
        [np.asarray(v) for v in strategy.experimental_local_results(value)]
        for value in train(*shares)
    ]
    expected = oracle(x, dy, 1.2, 0.3, mask)
    for result, value in zip(results[:2], expected[:2], strict=True):
        oracles.assert_close(np.concatenate(result), value, "float64", terms=9)
    for result, value in zip(results[2:], expected[2:4], strict=True):
        oracles.assert_close(np.sum(result, 0), value, "float64", terms=9)
    for variable, value in zip((layer.moving_mean, layer.moving_stddev), expected[4:], strict=True):
        raw = variable.value if IS_KERAS_3 else variable
        for local in strategy.experimental_local_results(raw):
            oracles.assert_close(local, value, "float64", terms=9)
    assert int(tf.convert_to_tensor(layer.step)) == 1


def test_clipping_shares_are_metrics_of_the_model():
    norm = keras_norms.BatchRenormalization(
        name="norm", r_max=1.3, d_max=0.4, momentum=1.0, clipping_metrics=True
    )
    model = keras.Sequential([keras.Input((2,)), norm])
    with_values(norm, (GAMMA, BETA), (MEAN, STDDEV))
    model.compile("sgd", "mse")
    logs = model.fit(X, DY, batch_size=4, epochs=2, verbose=0).history
    # Exact r is 1.54 and 1.25, exact d is 0.5 and -0.33.
    assert logs["norm_r_clipped"] == [0.5, 0.5]
    assert logs["norm_d_clipped"] == [0.5, 0.5]


class NoNumber(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return tf.stack([step, step])

    def get_config(self):
        return {}


class Unsaved(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 2.0


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(r_max=0.5), r"`r_max` must be a number, at least 1.0.*Received: r_max=0.5"),
        (dict(d_max=-1), r"`d_max` must be a number, at least 0.0.*Received: d_max=-1"),
        (dict(r_max=float("nan")), r"`r_max` must be.*Received: r_max=nan"),
        (dict(r_max="3"), r"`r_max` must be.*Received: r_max='3'"),
        (dict(r_max=True), r"`r_max` must be.*Received: r_max=True"),
        (dict(d_max=lambda step: 1.0), r"`d_max` must be.*Received: d_max=<function"),
        (dict(r_max=NoNumber()), r"`r_max` must be.*at step 0 is \[0. 0.\]"),
        (dict(r_max=LinearRamp(0, 9, 0.0, 3.0)), r"`r_max` must be.*at step 0 is 0.0"),
        (dict(r_max=Unsaved()), r"can be saved.*without a `get_config`"),
        (dict(clipping_metrics="yes"), r"`clipping_metrics` must be a bool"),
        (dict(momentum=2.0), r"`momentum` must be a number in \[0, 1\]"),
    ],
)
def test_rejects_arguments(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        keras_norms.BatchRenormalization(name="norm", **options)
    assert "BatchRenormalization 'norm'" in str(caught.value)
