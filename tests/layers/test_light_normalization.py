"""`LightNormalization` against the published flow in NumPy float64, and each part left out."""

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from keras_norms.number_formats import FORMATS, FloatFormat
from tests.range_oracle import RangeOracle, by_position
from tests.rounding_oracles import in_blocks, quantized
from tests.selection import BOTH

EPSILON = 1e-3
CHANNELS = 6
GAMMA = np.array([1.03, 0.77, -1.61, 2.9, 0.13, 0.98])
BETA = np.array([0.1, -0.2, 0.3, 1.7, 0.0, -3.1])
OFF = dict(number_format=None, gradient_format=None, block_size=None)
# Formats, blocks and their width, and how values are aligned and rounded.
CASES = {
    "fp10": dict(block_size=4),
    "truncate": dict(block_size=4, rounding="truncate", alignment="largest"),
    "wide": dict(block_size=6, number_format="fp15_168", gradient_format="fp8_152"),
    "narrow": dict(block_size=2, mantissa_bits=3, number_format=FloatFormat(4, 6)),
    "format": dict(block_size=None, number_format="fp8_143", gradient_format="fp10_163"),
    "blocks": dict(number_format=None, block_size=3, mantissa_bits=5, gradient_format=None),
    "gradients": dict(number_format=None, block_size=None),
}


def layer_with(shape=(None, CHANNELS), dtype="float64", **options):
    options = {"momentum": 0.5, "epsilon": EPSILON, "num_chunks": 3, **options}
    layer = keras_norms.LightNormalization(name="norm", dtype=dtype, **options)
    layer.build(shape)
    layer.gamma.assign(np.reshape(GAMMA, layer.gamma.shape))
    layer.beta.assign(np.reshape(BETA, layer.beta.shape))
    return layer


class Oracle(RangeOracle):
    """The layer on `(positions, channels)`, as NumPy float64."""

    def __init__(
        self,
        number_format="fp10_154",
        gradient_format="bfloat16",
        block_size=32,
        mantissa_bits=None,
        alignment="second_largest",
        rounding="nearest_even",
        dtype="float64",
    ):
        super().__init__(CHANNELS, EPSILON, num_chunks=3, constant="lightnorm")
        self.format, self.gradient_format = (
            FORMATS.get(f, f) if isinstance(f, str) else f for f in (number_format, gradient_format)
        )
        self.block_size, self.alignment, self.rounding = block_size, alignment, rounding
        self.bits = mantissa_bits or (self.format and self.format.mantissa_bits + 1)
        self.dtype = dtype

    def q(self, values, of=None):
        of = of or self.format
        return values if of is None else quantized(values, of, self.dtype, self.rounding)

    def b(self, values, bits=None):
        if self.block_size is None:
            return values
        return in_blocks(values, bits or self.bits, self.block_size, -1, self.alignment)

    def rounded_gradient(self, values):
        if self.gradient_format is None:
            return values
        values = self.q(values, self.gradient_format)
        return self.b(values, self.gradient_format.mantissa_bits + 1)

    def outputs(self, x, normalize):
        """y, and what gradients need: x and gamma as they are rounded, and x_hat."""
        x, gamma = self.b(self.q(x)), self.b(self.q(self.gamma))
        x_hat = self.q(normalize(x))
        return self.b(self.q(gamma * x_hat + BETA.astype(self.dtype))), (x, gamma, x_hat)

    @property
    def gamma(self):
        return GAMMA.astype(self.dtype).astype(np.float64)


@BOTH
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_steps_round_as_the_published_flow(rng, case, dtype):
    """Outputs bit by bit where rounded, states, and inference after each step."""
    layer, oracle = layer_with(dtype=dtype, **CASES[case]), Oracle(dtype=dtype, **CASES[case])
    rtol = 1e-12 if dtype == "float64" else 1e-6
    # Without a format the largest values of a block are not rounded.
    tolerance = dict(rtol=0, atol=0) if oracle.format else dict(rtol=rtol, atol=rtol)
    for i in range(3):
        x = rng.normal(i, 2.0 + i, (10, CHANNELS)).astype(dtype).astype(np.float64)
        y = layer(tf.constant(x, dtype), training=True)
        expected, _ = oracle.outputs(x, oracle.train)
        np.testing.assert_allclose(y, expected, **tolerance)
        np.testing.assert_allclose(layer.moving_mean, oracle.mean, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(layer.moving_scale, oracle.scale, rtol=rtol)
        y = layer(tf.constant(x, dtype), training=False)
        np.testing.assert_allclose(y, oracle.outputs(x, oracle.infer)[0], **tolerance)


@BOTH
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_pass_straight_through_and_are_rounded(rng, case, training):
    """Those of y and of x; weights have theirs in full.

    In training they are those of `RangeBatchNormalization` at the rounded x and gamma; in inference
    that of gamma is by the rounded x_hat.
    """
    layer, oracle = layer_with(**CASES[case]), Oracle(**CASES[case])
    x, dy = rng.normal(1.0, 2.0, (10, CHANNELS)), rng.normal(size=(10, CHANNELS))
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        y = layer(tensor, training=training)
    dx, dgamma, dbeta = tape.gradient(y, [tensor, layer.gamma, layer.beta], output_gradients=dy)
    dy = oracle.rounded_gradient(dy)
    normalize = oracle.train if training else oracle.infer
    _, (rounded_x, gamma, x_hat) = oracle.outputs(x, normalize)
    plain = keras_norms.RangeBatchNormalization(
        num_chunks=3,
        range_constant="lightnorm",
        epsilon=EPSILON,
        center=False,
        scale=False,
        dtype="float64",
    )
    with tf.GradientTape() as tape:
        tensor = tf.constant(rounded_x)
        tape.watch(tensor)
        y = plain(tensor, training=training)
    x_hat = y.numpy() if training else x_hat
    through = tape.gradient(y, tensor, output_gradients=gamma * dy).numpy()
    np.testing.assert_allclose(dx, oracle.rounded_gradient(through), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(dgamma, (dy * x_hat).sum(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dbeta, dy.sum(0), rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_every_gradient_of_x_is_a_number_of_the_format(rng, dtype):
    layer = layer_with(dtype=dtype, block_size=3, gradient_format="fp8_152")
    x = tf.cast(rng.normal(size=(12, CHANNELS)), layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
    dx = tf.cast(tape.gradient(loss, x), tf.float64).numpy()
    of_format = quantized(dx, FORMATS["fp8_152"], "float32")
    np.testing.assert_array_equal(dx, in_blocks(of_format, 3, 3, -1, "second_largest"))
    assert np.count_nonzero(dx) > 12


@BOTH
@pytest.mark.parametrize("axis, shape", [(1, (8, 6, 2)), ([1, 3], (6, 2, 2, 3)), (-1, (4, 4, 6))])
def test_layouts(rng, axis, shape):
    """Blocks lie along the channels, several axes of which are taken as one."""
    x = rng.normal(1.0, 2.0, shape)
    layer, oracle = layer_with(shape, axis=axis, block_size=4), Oracle(block_size=4)
    expected, _ = oracle.outputs(by_position(x, axis), oracle.train)
    y = layer(tf.constant(x), training=True).numpy()
    np.testing.assert_array_equal(by_position(y, axis), expected)


@BOTH
def test_padding_enters_no_statistic(rng):
    x, mask = rng.normal(size=(12, CHANNELS)), np.arange(12) % 3 > 0
    layer, oracle = layer_with(block_size=4), Oracle(block_size=4)
    expected, _ = oracle.outputs(x, lambda values: oracle.train(values, mask))
    spoiled = tf.constant(np.where(mask[:, np.newaxis], x, np.nan))
    with tf.GradientTape() as tape:
        tape.watch(spoiled)
        y = layer(spoiled, training=True, mask=tf.constant(mask))
        loss = tf.reduce_sum(y[1] ** 2)
    np.testing.assert_array_equal(y.numpy()[mask], expected[mask])
    assert np.isfinite(y).all() and np.isfinite(tape.gradient(loss, spoiled)).all()


def without_parts(layer, x):
    """Output, gradients to second order and state of a training step."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.sin(y))
        gradients = tape.gradient(loss, [x, layer.gamma, layer.beta])
        squares = tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients])
    second = outer.gradient(squares, x)
    state = [tf.convert_to_tensor(weight) for weight in layer.weights[2:]]
    return [y, *gradients, second, *state, layer(x, training=False)]


@BOTH
@pytest.mark.parametrize("range_constant", ["banner", None])
def test_without_its_parts_it_is_the_layer_underneath(rng, range_constant):
    """`RangeBatchNormalization`, and without ranges `BatchNormalization` of the same epsilon."""
    x = tf.constant(rng.normal(1.0, 2.0, (10, CHANNELS)))
    common = dict(momentum=0.5, epsilon=EPSILON, dtype="float64")
    if range_constant is None:
        other = keras_norms.BatchNormalization(**common)
    else:
        chunks = dict(num_chunks=3, range_constant=range_constant)
        other = keras_norms.RangeBatchNormalization(**chunks, **common)
    other.build(x.shape)
    layer = layer_with(range_constant=range_constant, **OFF)
    other.set_weights(layer.get_weights())
    for actual, expected in zip(without_parts(layer, x), without_parts(other, x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11)


@BOTH
def test_without_ranges_masks_may_weigh_and_variances_be_unbiased(rng):
    x = tf.constant(rng.normal(size=(8, CHANNELS)))
    options = dict(range_constant=None, unbiased_moving_variance=True, epsilon=1e-3, momentum=0.5)
    layer, other = (
        layer_with(**OFF, **options),
        keras_norms.BatchNormalization(
            unbiased_moving_variance=True, momentum=0.5, dtype="float64"
        ),
    )
    other.build(x.shape)
    other.set_weights(layer.get_weights())
    mask = tf.constant(rng.uniform(size=8))
    actual, expected = (kind(x, training=True, mask=mask) for kind in (layer, other))
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(layer.moving_variance, other.moving_variance, rtol=1e-12)


def test_center_and_scale_may_be_left_out(rng):
    x = rng.normal(size=(8, CHANNELS))
    for center, scale in ((False, True), (True, False), (False, False)):
        layer = keras_norms.LightNormalization(
            center=center, scale=scale, block_size=4, num_chunks=3, epsilon=EPSILON, dtype="float64"
        )
        oracle = Oracle(block_size=4)
        _, (_, _, x_hat) = oracle.outputs(x, oracle.train)
        expected = oracle.b(oracle.q(x_hat))  # Gamma is 1 and beta 0.
        np.testing.assert_array_equal(layer(tf.constant(x), training=True), expected)


def test_a_layer_that_is_not_trainable_rounds_as_in_inference(rng):
    x = tf.constant(rng.normal(size=(8, CHANNELS)))
    layer = layer_with(block_size=4)
    layer(x, training=True)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))


def test_formats_survive_configs_and_files(tmp_path, rng):
    formats = dict(number_format=FloatFormat(4, 6), gradient_format="fp8_152")
    layer = keras_norms.LightNormalization(block_size=2, num_chunks=1, name="norm", **formats)
    config = json.loads(json.dumps(layer.get_config()))
    restored = keras_norms.LightNormalization.from_config(config)
    assert restored.number_format == FloatFormat(4, 6)
    assert restored.gradient_format == "fp8_152"
    model = keras.Sequential([keras.Input((3,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm").number_format == FloatFormat(4, 6)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(number_format="fp7"), r"`number_format` must be a FloatFormat or one of .*='fp7'"),
        (dict(number_format=dict(bits=10)), r"`number_format` must be a FloatFormat or one of"),
        (dict(gradient_format=16), r"`gradient_format` must be a FloatFormat or one of .*=16"),
        (dict(number_format=None), r"blocks without a `number_format` need `mantissa_bits`"),
        (dict(alignment="first"), r"`alignment` must be one of 'largest', 'second_largest'"),
        (dict(rounding="stochastic"), r"one of 'nearest_even', 'truncate'.*='stochastic'"),
        (dict(block_size=0), r"`block_size` must be a positive int or None. .*block_size=0"),
        (dict(mantissa_bits=1), r"`mantissa_bits` must be None or an int in \[2, 24\]"),
        (dict(range_constant="none"), r"`range_constant` must be one of"),
        (dict(unbiased_moving_variance=True), r"`unbiased_moving_variance` must be False"),
    ],
)
def test_rejects_arguments(options, message):
    with pytest.raises(ValueError, match="LightNormalization 'norm': .*" + message):
        keras_norms.LightNormalization(name="norm", **options)


@pytest.mark.parametrize("axis, shape", [(-1, (8, 4)), ([1, 2], (8, 2, 2, 5))])
def test_rejects_blocks_larger_than_the_channels(axis, shape):
    layer = keras_norms.LightNormalization(axis, block_size=5, name="norm")
    rule = "'norm': `block_size` must be at most the number of channels.*block_size=5, channels=4"
    with pytest.raises(ValueError, match=rule):
        layer.build(shape)
