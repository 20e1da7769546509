"""Rounding, bit for bit: every 16-bit pattern, random 32-bit ones, blocks of all sizes, XLA."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.number_formats import FORMATS, FloatFormat, block_floating_point, quantize
from keras_norms.ops.rounding import Rounding, rounded
from tests import rounding_oracles
from tests.selection import BOTH
from tests.test_number_formats import assert_same

pytestmark = pytest.mark.each_tensorflow

# The widest and the narrowest exponents and mantissas, with those of the named formats between.
TARGETS = [FORMATS["fp8_143"], FORMATS["fp10_154"], FORMATS["fp10_163"], FORMATS["float16"]]
TARGETS += [FORMATS["bfloat16"], FloatFormat(8, 1), FloatFormat(8, 23), FloatFormat(2, 23)]
TARGETS += [FloatFormat(8, 22), FloatFormat(2, 1), FloatFormat(7, 12)]
OPTIONS = [
    (rounding, subnormals)
    for rounding in ("nearest_even", "truncate")
    for subnormals in (True, False)
]


def all_patterns(dtype):
    patterns = np.arange(2**16, dtype=np.uint16)
    return patterns.view(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)


def random_patterns(rng, count, dtype=np.float32):
    """Bit patterns: all exponents are as frequent, subnormal values and NaN included."""
    size = np.dtype(dtype).itemsize
    return rng.integers(0, 2 ** (8 * size), count, f"uint{8 * size}").view(dtype)


def float64(x):
    with np.errstate(invalid="ignore"):  # NaN that signals.
        return x.astype(np.float64)


def check(x, dtype, target, rounding, subnormals):
    expected = rounding_oracles.quantized(float64(x), target, dtype, rounding, subnormals)
    y = quantize(tf.constant(x), target, rounding, subnormals)
    assert_same(y.numpy(), expected.astype(x.dtype))


@BOTH
@pytest.mark.parametrize("rounding, subnormals", OPTIONS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_pattern_of_16_bits(dtype, rounding, subnormals):
    for target in TARGETS:
        check(all_patterns(dtype), dtype, target, rounding, subnormals)


@BOTH
@pytest.mark.parametrize("rounding, subnormals", OPTIONS)
def test_random_patterns_of_32_bits(rng, rounding, subnormals):
    x = random_patterns(rng, 100_000)
    for target in TARGETS:
        check(x, "float32", target, rounding, subnormals)


@BOTH
@pytest.mark.parametrize("rounding, subnormals", OPTIONS)
def test_random_patterns_of_64_bits(rng, rounding, subnormals):
    # Where formats have values, and anywhere.
    x = np.concatenate(
        [
            random_patterns(rng, 20_000, np.float64),
            rng.normal(size=20_000) * 2.0 ** rng.uniform(-160, 130, 20_000),
        ]
    )
    for target in TARGETS:
        check(x, "float64", target, rounding, subnormals)


def test_ten_million_patterns(native, rng):
    check(random_patterns(rng, 10**7), "float32", FORMATS["fp10_154"], "nearest_even", True)


@BOTH
@pytest.mark.parametrize("dtype", rounding_oracles.DTYPES)
def test_stochastic_values_are_neighbours(rng, dtype):
    numpy_dtype = tf.as_dtype(dtype).as_numpy_dtype
    x = (rng.normal(size=50_000) * 2.0 ** rng.uniform(-40, 12, 50_000)).astype(numpy_dtype)
    for target in TARGETS:
        below, above = (
            rounding_oracles.quantized(float64(x), target, dtype, rounding)
            for rounding in ("truncate", "up")
        )
        y = float64(quantize(tf.constant(x), target, "stochastic", seed=11).numpy())
        assert np.all((y == below) | (y == above))


@pytest.mark.parametrize("subnormals", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_both_draw_the_same_random_numbers(native, rng, dtype, subnormals):
    x = random_patterns(rng, 50_003) if dtype == "float32" else all_patterns(dtype)
    for target in TARGETS:
        for seed in (5, -(2**40)):
            found = []
            for name in ("native", "reference"):
                with keras_norms.implementation(name):
                    y = quantize(tf.constant(x), target, "stochastic", subnormals, seed=seed)
                    found.append(y.numpy())
            assert_same(*found)


SHAPES = {
    "vector": ((37,), 0),
    "last": ((6, 5, 64), 2),
    "last_remainder": ((11, 37), 1),
    "wide": ((3, 1300), 1),
    "first": ((2, 37, 5, 9), 1),
    "first_long": ((2, 9, 700), 1),
    "outermost": ((37, 6), 0),
    "middle": ((3, 2, 12, 3), 2),
}
BLOCK_SIZES = [1, 2, 3, 4, 8, 16, 32, 37, 64, 1000]


@BOTH
@pytest.mark.parametrize("alignment", ["largest", "second_largest"])
@pytest.mark.parametrize("dtype", rounding_oracles.DTYPES)
@pytest.mark.parametrize("shape, axis", SHAPES.values(), ids=SHAPES)
def test_blocks(rng, shape, axis, dtype, alignment):
    x = rng.normal(size=shape) * 2.0 ** rng.integers(-9, 3, shape)
    x.flat[::13] = rng.choice([0.0, -0.0, np.inf, np.nan], x.ravel()[::13].size)
    x.flat[: x.size // 4] *= 2.0 ** (-134 if dtype != "float16" else -18)  # Subnormal values.
    x = x.astype(tf.as_dtype(dtype).as_numpy_dtype)
    for i, block_size in enumerate(size for size in BLOCK_SIZES if size <= shape[axis]):
        mantissa_bits = (5, 2, 24, 9)[i % 4]
        given = mantissa_bits, block_size, axis, alignment
        expected = rounding_oracles.in_blocks(float64(x), *given).astype(x.dtype)
        assert_same(block_floating_point(tf.constant(x), *given).numpy(), expected)


@BOTH
@pytest.mark.parametrize("dtype", rounding_oracles.DTYPES)
@pytest.mark.parametrize("shape, axis", [((9, 64), 1), ((4, 10, 33), 1)], ids=["last", "first"])
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_both_steps_in_one_pass(rng, shape, axis, dtype, rounding):
    x, dy = (tf.cast(rng.normal(size=shape) * 1e3, dtype) for _ in range(2))
    forward = Rounding(FORMATS["fp10_154"], rounding, True, 4, 5, "second_largest")
    backward = Rounding(FORMATS["bfloat16"], "truncate", True, 8, 8)
    seed = tf.constant(4, tf.int64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = rounded(x, axis, forward, backward, seed)
    values = quantize(x, "fp10_154", rounding, seed=4)
    assert_same(y.numpy(), block_floating_point(values, 5, 4, axis, "second_largest").numpy())
    values = quantize(dy, "bfloat16", "truncate")
    assert_same(tape.gradient(y, x, dy).numpy(), block_floating_point(values, 8, 8, axis).numpy())


@pytest.mark.parametrize(
    "implementation, xla",
    # TensorFlow 2.15 has no FFI: there both forms under XLA are the same.
    [
        ("native", "ffi"),
        pytest.param("native", "hlo", marks=pytest.mark.main_leg),
        ("reference", "ffi"),
    ],
    indirect=["implementation"],
)
@pytest.mark.parametrize("dtype", rounding_oracles.DTYPES)
def test_compiled_by_xla(rng, monkeypatch, dtype, implementation, xla):
    monkeypatch.setenv("KERAS_NORMS_XLA", xla)
    numpy_dtype = tf.as_dtype(dtype).as_numpy_dtype
    with np.errstate(over="ignore"):
        x = rng.normal(size=(3, 11, 40)) * 2.0 ** rng.uniform(-140, 20, (3, 11, 40))
        x.flat[:5] = [np.inf, -np.inf, np.nan, 0.0, -0.0]
        x = tf.constant(x.astype(numpy_dtype))

    def run(x):
        return [
            quantize(x, "fp10_163"),
            quantize(x, "bfloat16", "truncate", subnormals=False),
            quantize(x, "fp12_165", "stochastic", seed=5),
            block_floating_point(x, 5, 4, axis=1, alignment="second_largest"),
            block_floating_point(x, 6, 8),
            rounded(x, 2, Rounding(FORMATS["fp8_143"], "nearest_even", True, 16, 3)),
        ]

    for compiled, eager in zip(tf.function(run, jit_compile=True)(x), run(x), strict=True):
        assert_same(compiled.numpy(), eager.numpy())
