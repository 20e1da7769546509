"""`RangeBatchNormalization` against its formulas in NumPy float64."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3
from tests import oracles, strategies
from tests.range_oracle import CONSTANTS, RangeOracle, by_position, expected_range
from tests.selection import BOTH

EPSILON = 1e-2
GAMMA, BETA = np.array([1.5, 0.5, -0.8]), np.array([0.1, -0.2, 0.3])
# `calibrated` is a polynomial, that is within 4e-6 of the integral.
TOLERANCE = {"calibrated": 1e-5, "banner": 1e-12, "lightnorm": 1e-12}


def layer_with(shape=(None, 3), dtype="float64", **options):
    options = {"momentum": 0.5, "epsilon": EPSILON, "range_constant": "lightnorm", **options}
    layer = keras_norms.RangeBatchNormalization(name="norm", dtype=dtype, **options)
    layer.build(shape)
    layer.gamma.assign(np.reshape(GAMMA, layer.gamma.shape))
    layer.beta.assign(np.reshape(BETA, layer.beta.shape))
    return layer


def state_of(layer):
    return [np.ravel(tf.convert_to_tensor(w)) for w in (layer.moving_mean, layer.moving_scale)]


def assert_state(layer, oracle, rtol=1e-12):
    for actual, expected in zip(state_of(layer), (oracle.mean, oracle.scale), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol)


@BOTH
@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("momentum", [0.6, None], ids=["momentum", "average"])
def test_steps(rng, constant, momentum):
    """Outputs and states over steps, with chunks of 5 and 4 values."""
    options = dict(num_chunks=5, momentum=momentum)
    layer = layer_with((None, 4, 3), range_constant=constant, **options)
    oracle, tolerance = RangeOracle(3, EPSILON, constant=constant, **options), TOLERANCE[constant]
    for i in range(3):
        x = rng.normal(i, 1.0 + i, (6, 4, 3))
        y = layer(tf.constant(x), training=True)
        expected = GAMMA * oracle.train(by_position(x)).reshape(x.shape) + BETA
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
        assert_state(layer, oracle, tolerance)
        y = layer(tf.constant(x), training=False)
        expected = GAMMA * oracle.infer(x) + BETA
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@BOTH
@pytest.mark.parametrize("dtype", ["bool", "int32"])
@pytest.mark.parametrize("virtual", [None, 4])
def test_masks(rng, dtype, virtual):
    """Chunks with fewer than two values that count are left out; others have their own `C(n)`."""
    x = rng.normal(2.0, 3.0, (9, 4, 3))
    mask = rng.uniform(size=(9, 4)) < 0.7
    mask[0] = [False, True, False, False]  # The first chunk has one value.
    mask[1] = False
    mask[2, :2] = False
    options = dict(num_chunks=4, momentum=0.3)
    layer = layer_with((None, 4, 3), virtual_batch_size=virtual, **options)
    oracle = RangeOracle(
        3, EPSILON, constant="lightnorm", virtual=virtual and 4 * virtual, **options
    )
    spoiled = np.where(mask[..., None], x, np.nan)
    y = layer(tf.constant(spoiled), training=True, mask=tf.constant(mask.astype(dtype)))
    expected = GAMMA * oracle.train(by_position(x), np.ravel(mask)).reshape(x.shape) + BETA
    np.testing.assert_allclose(y.numpy()[mask], expected[mask], rtol=1e-12, atol=1e-12)
    assert_state(layer, oracle)


@BOTH
def test_masks_that_differ_between_channels(rng):
    """As Keras' `Masking` makes them where channels come first."""
    x, mask = rng.normal(size=(6, 3, 4)), rng.uniform(size=(6, 3)) < 0.6
    layer = layer_with((None, 3, 4), axis=1, num_chunks=2)
    layer(tf.constant(x), training=True, mask=tf.constant(mask))
    oracle = RangeOracle(3, EPSILON, num_chunks=2, constant="lightnorm")
    weights = by_position(np.broadcast_to(mask[..., None], x.shape), 1)
    oracle.train(by_position(x, 1), weights.T)
    assert_state(layer, oracle)


@BOTH
def test_an_integer_mask_counts_a_value_once(rng):
    x = tf.constant(rng.normal(size=(8, 3)))
    results = []
    for mask in ([2, 1, 0, 1, 3, 1, 1, -1], [1, 1, 0, 1, 1, 1, 1, 0]):
        layer = layer_with(num_chunks=2)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.sin(layer(x, training=True, mask=tf.constant(mask)))
        results.append([y, tape.gradient(y, x), *state_of(layer)])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(actual, expected)


@BOTH
@pytest.mark.parametrize(
    "axis, shape", [(1, (5, 3, 2, 2)), (2, (3, 4, 3, 2)), ([1, 3], (6, 3, 2, 1)), (-1, (7, 3))]
)
def test_layouts(rng, axis, shape):
    """Chunks are runs by sample, then along the other axes, wherever the channels are."""
    x = rng.normal(1.0, 2.0, shape)
    layer = layer_with(shape, axis=axis, num_chunks=3)
    y = layer(tf.constant(x), training=True)
    oracle = RangeOracle(3, EPSILON, num_chunks=3, constant="lightnorm")
    expected = GAMMA * oracle.train(by_position(x, axis)) + BETA
    np.testing.assert_allclose(by_position(y.numpy(), axis), expected, rtol=1e-12, atol=1e-12)
    assert_state(layer, oracle)


@BOTH
def test_virtual_batches_have_chunks_of_their_own(rng):
    """The last one is smaller, and a single row is as in inference."""
    options = dict(num_chunks=2, momentum=None)
    oracle = RangeOracle(3, EPSILON, constant="lightnorm", virtual=4, **options)
    layer = layer_with(virtual_batch_size=4, **options)
    for rows in (10, 8, 9):
        x = rng.normal(3.0, 2.0, (rows, 3))
        y = layer(tf.constant(x), training=True)
        np.testing.assert_allclose(y, GAMMA * oracle.train(x) + BETA, rtol=1e-12, atol=1e-12)
        assert_state(layer, oracle)


@BOTH
def test_options_for_updates(rng):
    batches = [rng.normal(2.0 * i, 3.0**i, (6, 3)) for i in range(4)]
    batches[2][1, 0] = np.nan
    for options in (dict(max_update=0.5), dict(skip_nonfinite_updates=True)):
        layer = layer_with(num_chunks=2, **options)
        oracle = RangeOracle(3, EPSILON, num_chunks=2, constant="lightnorm", **options)
        for x in batches:
            layer(tf.constant(x), training=True)
            oracle.train(x)
            assert_state(layer, oracle)
        assert np.isfinite(state_of(layer)).all()


@BOTH
def test_golden_vectors():
    x = np.array([[1.0, 2, 4, 9, -3, 0, 5, 7]]).T
    dy = np.array([[1.0, -1, 0.5, 2, -1, 0, 2, 1]]).T
    layer = keras_norms.RangeBatchNormalization(
        num_chunks=2, range_constant="lightnorm", epsilon=1e-5, momentum=0.0, dtype="float64"
    )
    with tf.GradientTape() as tape:
        tensor = tf.constant(x)
        tape.watch(tensor)
        y = layer(tensor, training=True)
    dx, dgamma, dbeta = tape.gradient(y, [tensor, layer.gamma, layer.beta], output_gradients=dy)
    golden = [-0.39315006, -0.20813827, 0.16188532, 1.08694429]
    golden += [-1.13319724, -0.57816185, 0.34689711, 0.7169207]
    np.testing.assert_allclose(y[:, 0], golden, atol=6e-9)
    expected = [0.33726061, -0.28908093, -0.01156324, 0.00963651]
    expected += [-0.03276298, -0.10406913, 0.26595445, -0.17537529]
    np.testing.assert_allclose(dx[:, 0], expected, atol=6e-9)
    np.testing.assert_allclose(layer.moving_scale, [5.40506084], atol=6e-9)
    np.testing.assert_allclose([dgamma[0], dbeta[0]], [np.dot(golden, dy)[0], 4.5], atol=2e-8)


@BOTH
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_to_second_order(rng, masked):
    """Against differences: of a loss, and of the sum of squares of its gradient."""
    x, dy = rng.normal(2.0, 1.0, (7, 3)), rng.normal(size=(7, 3))
    mask = tf.constant([True, True, False, True, True, True, True]) if masked else None
    layer = layer_with(num_chunks=2, momentum=1.0)

    def loss(x):
        return tf.reduce_sum(dy * tf.sin(layer(x, training=True, mask=mask)))

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x)
        return tape.gradient(value, [x, layer.gamma, layer.beta])

    def squares(x):
        return tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients(x)])

    dx, dgamma, dbeta = gradients(tf.constant(x))
    with tf.GradientTape() as tape:
        tensor = tf.constant(x)
        tape.watch(tensor)
        value = squares(tensor)
    second = tape.gradient(value, tensor)
    for actual, function in ((dx, loss), (second, squares)):
        expected = oracles.numerical_gradient(lambda x, f=function: f(tf.constant(x)), x)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    for parameter, actual in ((layer.gamma, dgamma), (layer.beta, dbeta)):

        def of_parameter(value, parameter=parameter):
            parameter.assign(value)
            return loss(tf.constant(x))

        kept = np.array(parameter)
        expected = oracles.numerical_gradient(of_parameter, kept)
        parameter.assign(kept)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@BOTH
def test_the_gradient_goes_to_the_first_of_equals():
    """Both chunks have their largest and their smallest value twice."""
    x = np.array([0.0, 2.0, 2.0, 0.0, 1.0, -1.0, -1.0, 1.0])[:, None]
    dy = np.array([1.0, 0.0, -2.0, 3.0, 0.5, 1.0, 0.0, -1.0])[:, None]
    layer = keras_norms.RangeBatchNormalization(
        num_chunks=2, range_constant="lightnorm", epsilon=0.0, dtype="float64"
    )
    with tf.GradientTape() as tape:
        tensor = tf.constant(x)
        tape.watch(tensor)
        y = layer(tensor, training=True)
    dx = tape.gradient(y, tensor, output_gradients=dy)
    constant = 1.0 / np.sqrt(2.0 * np.log(4.0))
    scale = 2.0 * constant  # Both ranges are 2.
    of_scale = -np.sum(dy * (x - x.mean())) / scale**2
    expected = (dy - dy.mean()) / scale
    for position, sign in ((1, 1), (0, -1), (4, 1), (5, -1)):
        expected[position] += sign * constant / 2.0 * of_scale
    np.testing.assert_allclose(dx, expected, rtol=1e-12, atol=1e-14)


@BOTH
def test_a_constant_channel():
    """It becomes beta, its deviation is 0, and its gradient finite."""
    layer = layer_with(num_chunks=2, momentum=0.0)
    x = tf.constant(np.tile([5.0, -2.0, 1e6], (8, 1)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        value = tf.reduce_sum(y * np.arange(24.0).reshape(8, 3))
    np.testing.assert_array_equal(y, np.tile(BETA, (8, 1)))
    np.testing.assert_array_equal(state_of(layer)[1], [EPSILON] * 3)
    dy = np.arange(24.0).reshape(8, 3)
    expected = GAMMA / EPSILON * (dy - dy.mean(0))
    np.testing.assert_allclose(tape.gradient(value, x), expected, rtol=1e-10, atol=1e-10)


@BOTH
@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_exact_at_any_offset(rng, offset):
    x = (offset + rng.normal(size=(16, 4, 3))).astype(np.float32)
    layer = layer_with((None, 4, 3), "float32", num_chunks=4)
    y = layer(tf.constant(x), training=True)
    oracle = RangeOracle(3, EPSILON, num_chunks=4, constant="lightnorm")
    expected = GAMMA * oracle.train(by_position(x.astype(np.float64))).reshape(x.shape) + BETA
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_values_whose_sum_of_squares_overflows(rng, dtype):
    """60000 in float16, where 65504 is the largest: outputs and gradients are right."""
    x = tf.cast(rng.choice([-6e4, -3e4, 2e4, 6e4], size=(32, 4, 3)), dtype)
    layer = layer_with((None, 4, 3), dtype, num_chunks=4, momentum=0.0)
    oracle = RangeOracle(3, EPSILON, num_chunks=4, constant="lightnorm")
    dy = tf.cast(rng.normal(0.0, 1e4, x.shape), dtype)
    gradients = []
    for kind in (layer, layer_with((None, 4, 3), num_chunks=4)):
        with tf.GradientTape() as tape:
            values = tf.cast(x, kind.compute_dtype)
            tape.watch(values)
            y = kind(values, training=True)
        gradient = tape.gradient(y, values, output_gradients=tf.cast(dy, y.dtype))
        gradients.append(tf.cast(gradient, tf.float64))
    oracles.assert_close(*gradients, dtype, factor=2.0)
    y = layer(x, training=True)
    exact = tf.cast(x, tf.float64).numpy()
    expected = GAMMA * oracle.train(by_position(exact)).reshape(exact.shape) + BETA
    oracles.assert_close(tf.cast(y, tf.float64), expected, dtype, factor=2.0)
    deviation = oracle.statistics([(by_position(exact), np.ones(128))])[2]
    np.testing.assert_allclose(state_of(layer)[1], deviation + EPSILON, rtol=1e-6)


@pytest.mark.each_tensorflow
def test_the_calibrated_constant_is_that_of_normal_values():
    """`C(n) E[range of n]` is 1 to 1e-4, for all sizes of chunks up to 2^24."""
    sizes = [*range(2, 201), *(int(2**power) for power in np.arange(7.75, 24.01, 0.25))]
    log_n = tf.math.log(tf.constant(sizes, tf.float64))
    factors = keras_norms.statistics.ranges.RANGE_CONSTANTS["calibrated"](log_n)
    product = factors * np.array([expected_range(n) for n in sizes])
    np.testing.assert_allclose(product, np.ones(len(sizes)), rtol=0, atol=1e-4)


@pytest.mark.each_tensorflow
def test_the_expected_range_in_closed_form():
    """The oracle itself: of 2 and of 3 normal values, and a published one of 100."""
    root = np.sqrt(np.pi)
    for n, expected in ((2, 2.0 / root), (3, 3.0 / root), (100, 5.01519)):
        np.testing.assert_allclose(expected_range(n), expected, rtol=2e-6)


@BOTH
@pytest.mark.parametrize("n", [64, 256, 1024])
def test_calibrated_outputs_have_a_deviation_of_1(rng, n):
    x = rng.normal(5.0, 7.0, (16 * n, 8))
    layer = keras_norms.RangeBatchNormalization(num_chunks=16, dtype="float64")
    y = layer(tf.constant(x), training=True).numpy()
    np.testing.assert_allclose(y.std(0).mean(), 1.0, rtol=0.03)


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_batch_that_is_not_finite_has_no_statistics(rng, bad):
    """Other channels have theirs, and their gradients."""
    x = rng.normal(size=(8, 3))
    x[4:, 1] = bad  # A whole chunk.
    layer, tensor = layer_with(num_chunks=2), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        y = layer(tensor, training=True)
        loss = tf.reduce_sum(y**3)
    for found in (y.numpy(), tape.gradient(loss, tensor).numpy()):
        assert np.isnan(found[:, 1]).all() and np.isfinite(found[:, [0, 2]]).all()
    mean, scale = state_of(layer)
    assert not np.isfinite(mean[1]) and np.isnan(scale[1])
    assert np.isfinite([mean[[0, 2]], scale[[0, 2]]]).all()


@BOTH
def test_batches_of_unknown_size_use_fewer_chunks(rng):
    """One value has no range: it is normalized as in inference, and changes no state."""
    layer = layer_with(num_chunks=8, momentum=None)
    oracle = RangeOracle(3, EPSILON, num_chunks=8, constant="lightnorm", momentum=None)
    signature = [tf.TensorSpec([None, 3], tf.float64)]

    @functools.partial(tf.function, input_signature=signature, autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x)

    for rows in (20, 7, 3, 2, 1, 0, 16):
        x = rng.normal(3.0, 2.0, (rows, 3))
        y, dx = step(tf.constant(x))
        scale = oracle.scale
        np.testing.assert_allclose(y, GAMMA * oracle.train(x) + BETA, rtol=1e-11, atol=1e-11)
        assert_state(layer, oracle)
        if rows == 1:
            np.testing.assert_allclose(dx, [GAMMA / scale], rtol=1e-12)
    assert int(tf.convert_to_tensor(layer.step)) == 5


@BOTH
def test_single_values_that_count_have_no_range(rng):
    """One in each chunk: their distance from the mean is not divided by epsilon."""
    x, mask = rng.normal(size=(8, 3)), np.arange(8) % 4 == 0
    layer = layer_with(num_chunks=2)
    before = state_of(layer)
    y = layer(tf.constant(x), training=True, mask=tf.constant(mask))
    np.testing.assert_allclose(y, GAMMA * x / (1.0 + EPSILON) + BETA, rtol=1e-12)
    np.testing.assert_array_equal(state_of(layer), before)


def local_values(strategy, variable):
    raw = variable.value if IS_KERAS_3 else variable
    return [np.asarray(v) for v in strategy.experimental_local_results(raw)]


@BOTH
@pytest.mark.parametrize("replicas, group", [(1, None), (2, None), (4, None), (4, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_synchronized_replicas_average_over_all_chunks(rng, replicas, group, masked):
    """Outputs, states and gradients, with uneven and empty parts of the batch."""
    sizes = {1: [11], 2: [8, 3], 4: [4, 0, 2, 5]}[replicas]
    cuts = np.cumsum(sizes)[:-1]
    x, dy = rng.normal(1.0, 2.0, (11, 2, 3)), rng.normal(size=(11, 2, 3))
    mask = rng.uniform(size=(11, 2)) < 0.7 if masked else np.ones((11, 2), bool)
    strategy = strategies.mirrored(replicas)
    options = dict(num_chunks=2, momentum=0.3)
    with strategy.scope():
        layer = layer_with((None, 2, 3), synchronized=True, group_size=group, **options)

    @functools.partial(tf.function, autograph=False)
    def step(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask if masked else None)
        return y, tape.gradient(y, x, output_gradients=dy)

    shards = [[tf.constant(part) for part in np.split(v, cuts)] for v in (x, dy, mask)]
    outputs, gradients = strategies.run(strategy, step, *shards)
    parts = [np.split(by_position(v), 2 * cuts) for v in (x, dy)]
    weights = np.split(np.ravel(mask), 2 * cuts)
    means, scales = (local_values(strategy, w) for w in (layer.moving_mean, layer.moving_scale))
    for first in range(0, replicas, group or replicas):
        members = slice(first, first + (group or replicas))
        oracle = RangeOracle(3, EPSILON, constant="lightnorm", **options)
        group_parts = list(zip(parts[0][members], weights[members], strict=True))
        expected = oracle.train_replicas(group_parts)
        for y, wanted in zip(outputs[members], expected, strict=True):
            np.testing.assert_allclose(
                y, (GAMMA * wanted + BETA).reshape(y.shape), rtol=1e-12, atol=1e-12
            )
        for mean, scale in zip(means[members], scales[members], strict=True):
            np.testing.assert_allclose(mean, oracle.mean, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(scale, oracle.scale, rtol=1e-12)

        def loss(values, members=members, oracle=oracle):
            split = np.split(values, np.cumsum([len(p) for p in parts[0][members]])[:-1])
            replicas = list(zip(split, weights[members], strict=True))
            found = oracle.statistics(replicas)
            return sum(
                np.sum(dy * GAMMA * oracle.normalized(v, *found))
                for v, dy in zip(split, parts[1][members], strict=True)
            )

        expected = oracles.numerical_gradient(loss, np.concatenate(parts[0][members]))
        actual = np.concatenate([by_position(dx) for dx in gradients[members]])
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_replicas_exchange_once_each_way():
    strategy = strategies.mirrored(2)
    with strategy.scope():
        layer = layer_with((None, 3), synchronized=True, num_chunks=1)

    @functools.partial(tf.function, autograph=False)
    def step(x):
        def replica(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            return tape.gradient(y, x)

        return strategy.run(replica, args=(x,))

    x = strategies.distribute(strategy, [tf.ones((4, 3), tf.float64)] * 2)
    operations = step.get_concrete_function(x).graph.get_operations()
    collectives = [op for op in operations if "CollectiveReduce" in op.type]
    assert len(collectives) == 2 * 2  # Forward and backward, on each of two devices.


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_chunks=0), r"`num_chunks` must be an int above 0. Received: num_chunks=0"),
        (dict(num_chunks=2.0), r"`num_chunks` must be an int above 0"),
        (dict(num_chunks=True), r"`num_chunks` must be an int above 0"),
        (dict(range_constant="gauss"), r"one of 'calibrated', 'banner', 'lightnorm'.*'gauss'"),
        (dict(range_constant=None), r"`range_constant` must be one of"),
        (dict(unbiased_moving_variance=True), r"`unbiased_moving_variance` must be False"),
    ],
)
def test_rejects_arguments(options, message):
    with pytest.raises(ValueError, match="RangeBatchNormalization 'norm': .*" + message):
        keras_norms.RangeBatchNormalization(name="norm", **options)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rejects_masks_of_floats(training, dtype):
    layer = layer_with(num_chunks=2)
    with pytest.raises(ValueError, match=rf"'norm': an extreme cannot count.*dtype='{dtype}'"):
        layer(tf.ones((4, 3)), training=training, mask=tf.ones(4, dtype))


@pytest.mark.parametrize(
    "options, shape, values",
    [
        (dict(num_chunks=4), (7, 3), 7),
        (dict(num_chunks=4, virtual_batch_size=3), (12, 2, 3), 6),
        (dict(num_chunks=3, axis=1), (1, 3, 5), 5),
    ],
)
def test_rejects_batches_known_to_be_too_small(options, shape, values):
    layer = keras_norms.RangeBatchNormalization(name="norm", **options)
    message = rf"'norm': a chunk of one value.*num_chunks=\d, values_per_channel={values}"
    layer(tf.zeros(shape), training=False)
    with pytest.raises(ValueError, match=message):
        layer(tf.zeros(shape), training=True)
