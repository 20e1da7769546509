"""`accumulate_steps=N`: N batches leave the moving statistics of one batch of N times the size.

Outputs stay those of each batch. Every weight is compared after every call.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from tests import option_oracle, oracles, range_oracle, strategies

EPSILON = 1e-2
CHANNELS = 3
RAMP = keras_norms.schedules.LinearRamp(0, 2, 0.9, 0.5)
LIMITS = dict(r_max=1.5, d_max=0.4)
RANGES = dict(num_chunks=2, range_constant="lightnorm")
# The layer, its options, those of the oracle, and the momentum of the first updates.
KINDS = {
    "batch": (keras_norms.BatchNormalization, {}, {}, [0.6] * 3),
    "unbiased": (
        keras_norms.BatchNormalization,
        dict(unbiased_moving_variance=True),
        dict(unbiased_moving_variance=True),
        [0.6] * 3,
    ),
    "average": (keras_norms.BatchNormalization, dict(momentum=None), {}, [0.0, 1 / 2, 2 / 3]),
    "schedule": (keras_norms.BatchNormalization, dict(momentum=RAMP), {}, [0.9, 0.7, 0.5]),
    "bound": (
        keras_norms.BatchNormalization,
        dict(max_update=0.5),
        dict(max_update=0.5),
        [0.6] * 3,
    ),
    "sync": (keras_norms.SyncBatchNormalization, {}, {}, [0.6] * 3),
    "regularized": (keras_norms.RegularizedBatchNormalization, {}, {}, [0.6] * 3),
    "renorm": (
        keras_norms.BatchRenormalization,
        LIMITS,
        dict(stddev=True, limits=tuple(LIMITS.values())),
        [0.6] * 3,
    ),
    "light": (
        functools.partial(
            keras_norms.LightNormalization,
            number_format=None,
            gradient_format=None,
            block_size=None,
            range_constant=None,
        ),
        {},
        {},
        [0.6] * 3,
    ),
}


def plain(function):
    return function


def compiled(function):
    return tf.function(function, jit_compile=True)


WAYS = {"eager": plain, "traced": tf.function, "compiled": compiled}
CASES = [(kind, "traced") for kind in KINDS] + [("batch", "eager"), ("unbiased", "compiled")]


def made(kind, **options):
    layer_class, own, _, _ = KINDS[kind]
    common = dict(center=False, scale=False, epsilon=EPSILON, momentum=0.6, dtype="float64")
    layer = layer_class(**{**common, **own, **options})
    layer.build((None, CHANNELS))
    return layer


def states(layer):
    """The weights that are not trained, by name."""
    named = {w.name.split("/")[-1].split(":")[0]: w for w in layer.non_trainable_weights}
    return {name: np.asarray(tf.convert_to_tensor(w)) for name, w in named.items()}


def batches(count, seed=2):
    """Batches of 5, with sample weights of which some are 0, and all in each fourth batch."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(count):
        x = generator.normal(1.0 + i, 0.5 + 0.3 * i, (5, CHANNELS))
        weights = generator.uniform(0.1, 2.0, 5) * (generator.uniform(size=5) > 0.2)
        found.append((x, weights * (i % 4 != 1)))
    return found


def expected_window(window):
    """The parts of the batches of a window, from the rows of all of them."""
    if not window:
        return dict.fromkeys(("count", "mean", "m2", "squared_weights"), np.zeros(CHANNELS))
    x, weights = (np.concatenate(values) for values in zip(*window, strict=True))
    count, mean, variance = (np.ravel(v) for v in oracles.moments(x, -1, weights))
    squares = np.full(CHANNELS, np.sum(weights**2))
    return dict(count=count, mean=mean, m2=count * variance, squared_weights=squares)


@pytest.mark.parametrize("kind, way", CASES, ids=map("-".join, CASES))
def test_every_state_after_every_call(kind, way):
    """Three windows of three batches. In the first two of them one batch is empty."""
    _, _, of_oracle, momenta = KINDS[kind]
    layer = made(kind, accumulate_steps=3)
    call = WAYS[way](lambda x, weights: layer(x, training=True, mask=weights))
    oracle = option_oracle.TrainingOracle(CHANNELS, EPSILON, accumulate_steps=3, **of_oracle)
    for i, (x, weights) in enumerate(batches(9)):
        oracle.options["momentum"] = momenta[i // 3]
        expected, _ = oracle(x, weights)
        y = call(tf.constant(x), tf.constant(weights))
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
        found = states(layer)
        assert found.pop("accumulated_calls") == (i + 1) % 3
        assert found.pop("step", oracle.batches) == oracle.batches == (i + 1) // 3
        np.testing.assert_allclose(found.pop("moving_mean"), oracle.mean, rtol=1e-12)
        spread = found.pop("moving_stddev" if kind == "renorm" else "moving_variance")
        np.testing.assert_allclose(spread, oracle.spread, rtol=1e-12)
        parts = {f"accumulated_{k}": v for k, v in expected_window(oracle.window).items()}
        assert found.keys() == parts.keys() - (
            {"accumulated_squared_weights"} if kind != "unbiased" else set()
        )
        for name, value in found.items():
            np.testing.assert_allclose(value, parts[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_ranges_merge_over_all_chunks():
    """A batch of one value a channel has no range, and so is not in the mean either."""
    layer = keras_norms.RangeBatchNormalization(
        momentum=0.6, epsilon=EPSILON, dtype="float64", accumulate_steps=3, **RANGES
    )
    oracle = range_oracle.RangeOracle(
        CHANNELS,
        EPSILON,
        num_chunks=2,
        constant="lightnorm",
        momentum=0.6,
        accumulate_steps=3,
    )
    masks = [np.ones(5), np.array([0, 1, 1, 1, 0]), np.array([0, 0, 1, 0, 0])] * 2
    call = tf.function(lambda x, mask: layer(x, training=True, mask=mask))
    layer.build((None, CHANNELS))
    for i, ((x, _), mask) in enumerate(zip(batches(6), masks, strict=True)):
        y = call(tf.constant(x), tf.constant(mask > 0))
        if mask.sum() > 1:
            np.testing.assert_allclose(y, oracle.train(x, mask), rtol=1e-9, atol=1e-9)
        else:
            oracle.train(x, 0.0 * mask)
        np.testing.assert_allclose(layer.moving_mean, oracle.mean, rtol=1e-12)
        np.testing.assert_allclose(layer.moving_scale, oracle.scale, rtol=1e-12)
        found = states(layer)
        assert found["accumulated_calls"] == (i + 1) % 3
        count, mean, deviation = (
            oracle.statistics(oracle.window) if oracle.window else np.zeros((3, CHANNELS))
        )
        np.testing.assert_allclose(found["accumulated_count"], count)
        np.testing.assert_allclose(found["accumulated_mean"], mean, rtol=1e-12)
        sums = found["accumulated_chunks"] * deviation
        np.testing.assert_allclose(found["accumulated_deviations"], sums, rtol=1e-12)
        assert (found["accumulated_chunks"] == [2, 3, 0][i % 3]).all()


@pytest.mark.parametrize("kind", ["batch", "average", "unbiased"])
def test_a_window_in_which_nothing_counts_moves_nothing(kind):
    layer = made(kind, accumulate_steps=2)
    x, weights = batches(1)[0]
    for _ in range(2):
        layer(tf.constant(x), training=True, mask=tf.constant(weights))
    before = states(layer)
    for _ in range(2):
        layer(tf.constant(x), training=True, mask=tf.zeros(5))
    for name, value in states(layer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert np.all(before["moving_mean"])


def test_a_window_with_a_nan_is_left_out_as_a_whole_and_the_next_is_not():
    layer = made("batch", accumulate_steps=2, skip_nonfinite_updates=True)
    (x, _), (other, _) = batches(2)
    for each in (np.where(x > x.min(), x, np.nan), other):
        layer(tf.constant(each), training=True)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(CHANNELS))
    for each in (x, other):
        layer(tf.constant(each), training=True)
    mean = np.concatenate([x, other]).mean(0)
    np.testing.assert_allclose(layer.moving_mean, 0.4 * mean, rtol=1e-12)


def test_calls_that_turn_out_to_be_inference_are_not_in_a_window():
    layer = made("average", accumulate_steps=2)
    call = tf.function(lambda x, training: layer(x, training=training))
    given = [x for x, _ in batches(4)]
    for x in given:
        for training in (False, True, False):
            call(tf.constant(x), tf.constant(training))
    means = [np.concatenate(given[:2]).mean(0), np.concatenate(given[2:]).mean(0)]
    np.testing.assert_allclose(layer.moving_mean, np.mean(means, 0), rtol=1e-12)
    assert states(layer)["step"] == 2 and states(layer)["accumulated_calls"] == 0


def test_exact_far_from_zero_in_float32():
    """The sums are float64, so that means which differ little keep their difference."""
    layer = keras_norms.BatchNormalization(momentum=0.0, accumulate_steps=4)
    given = np.random.default_rng(1).normal(1e6, 1.0, (4, 50, CHANNELS)).astype("f")
    for x in given:
        layer(tf.constant(x), training=True)
    variance = np.var(given.astype("d"), (0, 1))
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-6)


@pytest.mark.parametrize("synchronized", [True, False])
def test_on_two_replicas(synchronized):
    """Synchronized replicas accumulate the batch of both; others are averaged when read."""
    strategy = strategies.mirrored(2)
    with strategy.scope():
        layer = made("batch", accumulate_steps=2, synchronized=synchronized)
    step = tf.function(lambda x: layer(x, training=True))
    given = np.random.default_rng(3).normal(2.0, 3.0, (3, 8, CHANNELS))
    for batch in given:
        strategies.run(strategy, step, [tf.constant(batch[:3]), tf.constant(batch[3:])])
    if synchronized:
        parts = [given[:2].reshape(-1, CHANNELS)]
    else:
        parts = [given[:2, part].reshape(-1, CHANNELS) for part in (slice(3), slice(3, 8))]
    mean, variance = (np.mean([f(part, 0) for part in parts], 0) for f in (np.mean, np.var))
    found = states(layer)
    np.testing.assert_allclose(found["moving_mean"], 0.4 * mean, rtol=1e-12)
    np.testing.assert_allclose(found["moving_variance"], 0.6 + 0.4 * variance, rtol=1e-12)
    assert found["accumulated_calls"] == 1
    assert (found["accumulated_count"] == (8 if synchronized else 4)).all()


@pytest.mark.keras_3  # Keras 2 accumulates no gradients.
def test_with_an_optimizer_that_accumulates_gradients():
    """The weights before the layer are the same in all of a window, as in one large batch.

    Each micro-batch is normalized by itself, so gradients are not those of the large batch, and
    only the first window is the same. It is exact to the rounding of float32.
    """

    def fitted(batch_size, accumulate_optimizer=None, **options):
        keras.utils.set_random_seed(4)
        layer = keras_norms.BatchNormalization(momentum=0.5, **options)
        layers = [keras.Input((4,)), keras.layers.Dense(CHANNELS), layer, keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=accumulate_optimizer)
        model.compile(optimizer, "mse")
        x = np.random.default_rng(6).normal(3.0, 2.0, (16, 4)).astype("f")
        model.fit(x, x[:, :1], batch_size=batch_size, shuffle=False, verbose=0)
        return [np.asarray(v) for v in (layer.moving_mean, layer.moving_variance)]

    large = fitted(16)
    np.testing.assert_allclose(fitted(4, 4, accumulate_steps=4), large, rtol=1e-5)
    for options in (dict(), dict(accumulate_steps=4)):
        without = fitted(4, None if options else 4, **options)
        assert not np.allclose(without, large, rtol=1e-2)


def test_the_discrepancy_is_read_where_a_window_ends():
    """A window of 1, 3, 3 and 5: mean 3, and standard deviation sqrt(2), against 0 and 1."""
    layer = keras_norms.BatchNormalization(accumulate_steps=2, name="norm")
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile("sgd", "mse")
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=1)
    x = np.array([[1.0], [3.0], [3.0], [5.0], [7.0], [7.0]])
    model.fit(x, x, batch_size=2, shuffle=False, callbacks=[tid], verbose=0)
    np.testing.assert_allclose(tid.history["norm"]["mean"], [np.nan, 3.0, np.nan], rtol=1e-5)
    variance = [np.nan, np.sqrt(2.0) - 1.0, np.nan]
    np.testing.assert_allclose(tid.history["norm"]["variance"], variance, rtol=1e-4)


def test_rejects_a_gate():
    with pytest.raises(ValueError, match="the gate opens for each batch.*accumulate_steps=2"):
        keras_norms.AdaptiveBatchNormalization(accumulate_steps=2)
