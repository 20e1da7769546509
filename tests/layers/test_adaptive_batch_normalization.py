"""`AdaptiveBatchNormalization` against its formulas in NumPy float64: gates open and close."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from tests import oracles, strategies
from tests.selection import BOTH

EPSILON = 1e-2
GAMMA, BETA = np.array([1.5, 0.5, -0.8]), np.array([0.1, -0.2, 0.3])
STATE = "moving_mean", "moving_variance", "moving_sample_mean", "moving_open_share"


class Oracle:
    """The layer, and what it remembers: `seen` batches, and those that opened the gate."""

    def __init__(self, momentum=0.5, band=1.2, threshold=0.0, channels=3):
        self.momentum, self.band, self.threshold = momentum, band, threshold
        self.mean, self.variance = np.zeros(channels), np.ones(channels)
        self.sample_mean, self.open_share = 0.0, 1.0
        self.seen, self.opened = 0, 0

    @property
    def state(self):
        return self.mean, self.variance, self.sample_mean, self.open_share

    def judge(self, x, weights):
        """Whether the gate opens, and the mean of the means of the samples."""
        means = []
        for sample, w in zip(x, weights, strict=True):
            w = np.broadcast_to(w, sample.shape)
            if w.sum() > 0:
                means.append((sample * w)[w > 0].sum() / w.sum())
        low, high = (self.sample_mean + s * self.band * abs(self.sample_mean) for s in (-1, 1))
        outside = [not low <= m <= high for m in means]
        return np.mean(outside) > self.threshold, np.mean(means)

    def train(self, x, mask=None):
        """y, and whether the gate was open."""
        weights = oracles.weights_like(x, -1, mask)
        if not weights.any():
            return self.infer(x), None
        is_open, sample_mean = self.judge(x, weights)
        y, (_, mean, variance) = oracles.batch_norm(x, GAMMA, BETA, EPSILON, mask=mask)
        if is_open:
            share = self._share(self.opened)
            self.mean = self.mean + share * (np.ravel(mean) - self.mean)
            self.variance = self.variance + share * (np.ravel(variance) - self.variance)
            self.opened += 1
        else:
            y = GAMMA * x + BETA
        share = self._share(self.seen)
        self.sample_mean += share * (sample_mean - self.sample_mean)
        self.open_share += share * (is_open - self.open_share)
        self.seen += 1
        return y, is_open

    def infer(self, x):
        s, normalized = self.open_share, (x - self.mean) / np.sqrt(self.variance + EPSILON)
        return GAMMA * (s * normalized + (1 - s) * x) + BETA

    def _share(self, batches):
        return 1.0 / (batches + 1.0) if self.momentum is None else 1.0 - self.momentum


def layer_with(shape=(None, 3), dtype="float64", **options):
    options = {"momentum": 0.5, "epsilon": EPSILON, **options}
    layer = keras_norms.AdaptiveBatchNormalization(name="norm", dtype=dtype, **options)
    layer.build(shape)
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    return layer


def batches(rng, shape=(6, 4, 3), count=8):
    """Means near 1, but for one sample in batches 2, 6, ... and two in 4, 8, ..."""
    found = [rng.normal(1.0, 0.3, shape) for _ in range(count)]
    for i in range(2, count, 2):
        found[i][: 1 + (i % 4 == 0)] += 4.0
    return found


def assert_state(layer, oracle, dtype="float64"):
    for name, expected in zip(STATE, oracle.state, strict=True):
        actual = tf.convert_to_tensor(getattr(layer, name))
        oracles.assert_close(actual, expected, dtype, terms=24)


@BOTH
@pytest.mark.parametrize("momentum", [0.5, None], ids=["momentum", "average"])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_steps_open_and_close_the_gate(rng, momentum, threshold, masked):
    # With a band below 1 a sample in which nothing counts would be outside, if its mean were 0.
    layer = layer_with((None, None, 3), momentum=momentum, threshold=threshold, band=0.9)
    oracle, gates = Oracle(momentum, 0.9, threshold), []
    for x in batches(rng):
        mask = rng.uniform(0.1, 2.0, (6, 4)) * (rng.uniform(size=(6, 4)) < 0.7) if masked else None
        if masked:
            mask[-1] = 0.0  # A sample in which nothing counts.
            x[-1] = np.nan
        y = layer(x, training=True, mask=None if mask is None else tf.constant(mask))
        expected, is_open = oracle.train(x, mask)
        rows = slice(0, 5) if masked else slice(None)
        oracles.assert_close(y[rows], expected[rows], "float64", terms=24)
        assert_state(layer, oracle)
        gates.append(is_open)
        x = np.nan_to_num(x)
        oracles.assert_close(layer(x, training=False), oracle.infer(x), "float64", terms=24)
    # Two samples of six are enough, and one only without a threshold.
    assert gates[4] and gates[2] == (threshold == 0.0) and not gates[3]


@BOTH
@pytest.mark.parametrize("is_open", [True, False])
def test_gradients_are_those_of_the_branch(rng, is_open):
    """Against differences, which would see a gradient through the gate or the scores."""
    x, dy = rng.normal(2.0, 0.3, (4, 3)), rng.normal(size=(4, 3))
    x[0] += 9.0 * is_open
    layer = layer_with(momentum=1.0)
    layer.moving_sample_mean.assign(2.0)

    def loss(x):
        return float(tf.reduce_sum(dy * tf.sin(layer(tf.constant(x), training=True))))

    with tf.GradientTape() as outer:
        tensor = tf.constant(x)
        outer.watch(tensor)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            y = layer(tensor, training=True)
            value = tf.reduce_sum(dy * tf.sin(y))
        dx, dgamma, dbeta = tape.gradient(value, [tensor, layer.gamma, layer.beta])
        squares = tf.reduce_sum(tf.square(dx))
    np.testing.assert_allclose(dx, oracles.numerical_gradient(loss, x), rtol=1e-6, atol=1e-7)
    dsine = dy * np.cos(y)
    normalized = (np.asarray(y) - BETA) / GAMMA
    np.testing.assert_allclose(dgamma, (dsine * normalized).sum(0), rtol=1e-10)
    np.testing.assert_allclose(dbeta, dsine.sum(0), rtol=1e-10)

    def squared_gradient(x):
        tensor = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = tf.reduce_sum(dy * tf.sin(layer(tensor, training=True)))
        return float(tf.reduce_sum(tf.square(tape.gradient(value, tensor))))

    expected = oracles.numerical_gradient(squared_gradient, x)
    second = outer.gradient(squares, tensor)
    np.testing.assert_allclose(second, expected, rtol=1e-5, atol=1e-6)


@BOTH
def test_an_open_gate_is_batch_normalization_and_a_closed_one_the_identity(rng):
    """Bit by bit, as does inference after only the one or the other."""
    x = rng.normal(1.0, 0.1, (8, 3)).astype(np.float32)
    plain = keras_norms.BatchNormalization(momentum=0.8)
    layer = keras_norms.AdaptiveBatchNormalization(momentum=0.8)
    for training in (True, False):  # The first call is open; after it the open share is 1.
        np.testing.assert_array_equal(layer(x, training=training), plain(x, training=training))
    layer.moving_sample_mean.assign(1.0)
    np.testing.assert_array_equal(layer(x, training=True), x)
    layer.moving_open_share.assign(0.0)
    np.testing.assert_array_equal(layer(x, training=False), x)


@BOTH
@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_means_of_samples_are_exact_at_any_offset(offset, rng):
    x = (offset + rng.normal(size=(5, 7, 3))).astype(np.float32)
    x[0] += 40.0
    options = dict(momentum=0.0, band=2e-5, threshold=0.1)  # A band of 20 around 1e6.
    layer = layer_with((None, None, 3), "float32", **options)
    layer.moving_sample_mean.assign(offset)
    layer(x, training=True)
    assert float(tf.convert_to_tensor(layer.moving_open_share)) == 1.0
    expected = np.float32(x.astype(np.float64).mean())
    np.testing.assert_array_equal(tf.convert_to_tensor(layer.moving_sample_mean), expected)
    layer.moving_sample_mean.assign(offset)
    layer(x[1:], training=True)
    assert float(tf.convert_to_tensor(layer.moving_open_share)) == 0.0


@pytest.mark.parametrize("momentum", [0.5, None], ids=["momentum", "average"])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_synchronized_replicas_are_one_batch(replicas, momentum, rng):
    """Every replica's gate, output, gradient and state, with uneven and empty shares and a mask."""
    sizes = {1: [6], 2: [4, 2], 4: [3, 0, 1, 2]}[replicas]
    cuts = np.cumsum(sizes)[:-1]
    options = dict(threshold=0.2, momentum=momentum)
    strategy = strategies.mirrored(replicas)
    with strategy.scope():
        layer = layer_with((None, None, 3), synchronized=True, **options)
    whole = layer_with((None, None, 3), **options)

    def step(layer, x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        return y, tape.gradient(y, x, output_gradients=dy)

    oracle, gates = Oracle(momentum, threshold=0.2), []
    traced = tf.function(
        lambda *arguments: strategy.run(lambda *a: step(layer, *a), args=arguments),
        reduce_retracing=True,
    )
    for x in batches(rng, count=6):
        dy, mask = rng.normal(size=x.shape), rng.uniform(size=(6, 4)) < 0.8
        values = x, dy, mask
        parts = [[tf.constant(part) for part in np.split(value, cuts)] for value in values]
        results = traced(*(strategies.distribute(strategy, part) for part in parts))
        y, dx = (np.concatenate(strategy.experimental_local_results(v)) for v in results)
        expected, is_open = oracle.train(x, mask)
        oracles.assert_close(y, expected, "float64", terms=24)
        _, expected = step(whole, *map(tf.constant, values))
        np.testing.assert_allclose(dx, expected, rtol=1e-9, atol=1e-11)
        gates.append(is_open)
        for name, value in zip(STATE, oracle.state, strict=True):
            variable = getattr(layer, name)
            for local in strategy.experimental_local_results(
                variable.value if IS_KERAS_3 else variable
            ):
                oracles.assert_close(local, value, "float64", terms=24)
    assert True in gates and False in gates


def test_a_batch_in_which_nothing_counts_is_inference_and_changes_nothing(rng):
    layer, oracle = layer_with(momentum=None), Oracle(None)
    for x in batches(rng, (6, 3), 4):
        layer(x, training=True)
        oracle.train(x)
    assert 0.0 < oracle.open_share < 1.0
    y = layer(x, training=True, mask=tf.zeros(6))
    oracles.assert_close(y, oracle.infer(x), "float64")
    assert layer(tf.zeros((0, 3)), training=True).shape == (0, 3)
    assert_state(layer, oracle)
    assert int(tf.convert_to_tensor(layer.step)) == 4


def test_training_as_a_tensor_and_a_layer_that_is_not_trainable(rng):
    layer, oracle = layer_with(), Oracle()
    call = tf.function(lambda x, training: layer(x, training=training))
    for x in batches(rng, (6, 3), 4):
        oracles.assert_close(call(x, tf.constant(True)), oracle.train(x)[0], "float64")
        oracles.assert_close(call(x, tf.constant(False)), oracle.infer(x), "float64")
    layer.trainable = False
    oracles.assert_close(layer(x, training=True), oracle.infer(x), "float64")
    assert_state(layer, oracle)
    assert 0.0 < oracle.open_share < 1.0


@BOTH
def test_compiled_by_xla(rng):
    layer, oracle = layer_with((None, None, 3)), Oracle()
    step = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    for x in batches(rng, count=4):
        oracles.assert_close(step(tf.constant(x)), oracle.train(x)[0], "float64", terms=24)
    assert_state(layer, oracle)
    assert 0.0 < oracle.open_share < 1.0


@pytest.mark.parametrize("axis", [1, [1, 3], -1])
def test_samples_are_the_first_axis_whatever_the_channels_are(axis, rng):
    x = rng.normal(1.0, 0.2, (4, 3, 2, 5))
    layer = keras_norms.AdaptiveBatchNormalization(axis, momentum=0.5, dtype="float64")
    layer(x, training=True)  # moving_sample_mean is 0.5 now, and 1 within [-0.1, 1.1].
    x[:3] -= 0.2
    x[3] += 0.2
    y = layer(x, training=True)
    _, mean, variance = oracles.moments(x, axis)
    oracles.assert_close(y, (x - mean) / np.sqrt(variance + 1e-3), "float64", terms=20)
    oracles.assert_close(layer(x - 0.2, training=True), x - 0.2, "float64")


def test_options_for_updates(rng):
    """NaN opens the gate; it never enters the mean of samples, which would keep the gate open."""
    x = rng.normal(1.0, 0.1, (6, 3))
    bad = x.copy()
    bad[0, 0] = np.nan
    layer = layer_with(skip_nonfinite_updates=True, momentum=None)
    layer(x, training=True)
    before = [np.asarray(tf.convert_to_tensor(w)) for w in layer.weights]
    layer(bad, training=True)
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(weight), value)
    layer = layer_with(momentum=0.5)
    layer(bad, training=True)
    assert float(tf.convert_to_tensor(layer.moving_sample_mean)) == 0.0
    assert np.isnan(tf.convert_to_tensor(layer.moving_mean)[0])
    layer = layer_with(momentum=0.0, unbiased_moving_variance=True)
    layer(x, training=True)
    oracles.assert_close(layer.moving_variance, x.var(0, ddof=1), "float64")


def test_a_block_that_is_recomputed_updates_once(rng):
    kept, plain, oracle = layer_with(), layer_with(), Oracle()
    for x in map(tf.constant, batches(rng, (6, 3), 5)):
        gradients = []
        for layer, wrap in ((kept, tf.recompute_grad), (plain, lambda f: f)):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = wrap(lambda x, layer=layer: tf.sin(layer(x, training=True)))(x)
            gradients.append(tape.gradient(y, x))
        np.testing.assert_allclose(*gradients, rtol=1e-10)
        oracle.train(np.asarray(x))
    assert_state(kept, oracle)
    assert 0.0 < oracle.open_share < 1.0


def test_the_share_of_open_gates_is_a_metric_of_the_model(rng):
    norm = keras_norms.AdaptiveBatchNormalization(name="norm", open_share_metric=True, momentum=0.5)
    model = keras.Sequential([keras.Input((3,)), norm])
    model.compile("sgd", "mse")
    x = np.concatenate(batches(rng, (6, 3), 8))
    oracle = Oracle()
    for _ in range(2):
        gates = [oracle.train(batch)[1] for batch in np.split(x, 8)]
        logs = model.fit(x, x, batch_size=6, shuffle=False, verbose=0).history
        assert 0.0 < np.mean(gates) < 1.0
        np.testing.assert_allclose(logs["norm_open_share"], [np.mean(gates)], rtol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(band=-1.0), r"`band` must be a finite number, at least 0. Received: band=-1.0"),
        (dict(band=float("inf")), r"`band` must be a finite number"),
        (dict(threshold=1.0), r"`threshold` must be a number in \[0, 1\). Received: threshold=1.0"),
        (dict(threshold=None), r"`threshold` must be a number"),
        (dict(open_share_metric="yes"), r"`open_share_metric` must be a bool"),
        (dict(virtual_batch_size=4), r"one for the whole batch.*Received: virtual_batch_size=4"),
    ],
)
def test_rejects_arguments(options, message):
    with pytest.raises(ValueError, match="AdaptiveBatchNormalization 'norm': .*" + message):
        keras_norms.AdaptiveBatchNormalization(name="norm", **options)


def test_rejects_channels_on_the_axis_of_samples():
    layer = keras_norms.AdaptiveBatchNormalization([0, 2], name="norm")
    with pytest.raises(ValueError, match=r"'norm': axis 0 is that of the samples.*axis=\[0, 2\]"):
        layer.build((4, 3, 2))
