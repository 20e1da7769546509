"""Number formats: values by hand and against other libraries, gradients, randomness, bad input."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from keras_norms.number_formats import FORMATS, FloatFormat, block_floating_point, quantize
from tests import rounding_oracles
from tests.selection import BOTH

pytestmark = [BOTH, pytest.mark.each_tensorflow]

FP10 = {
    "truncate": {1.03: 1.0, 1.09: 1.0625, -1.97: -1.9375, 0.1: 0.09765625, 3.14159: 3.125}
    | {65504.0: 63488.0, 1e5: 63488.0, -1e5: -63488.0, 3e-5: 2.6702880859375e-05},
    "nearest_even": {1.06: 1.0625, -1.97: -2.0, 0.1: 0.1015625, 1.03125: 1.0, 1.09375: 1.125},
}
BLOCKS = {
    "largest": [([8.5, 1.1875, 0.40625, 0.03125], [8.5, 1.0, 0.0, 0.0])],
    "second_largest": [
        ([8.5, 1.1875, 0.40625, 0.03125], [8.5, 1.1875, 0.375, 0.0]),
        ([8.5, 9.5, 1.1875, 0.40625], [8.5, 9.5, 1.0, 0.0]),
        ([1.9375, 1.0625, 0.53125, 0.09375], [1.9375, 1.0625, 0.5, 0.0625]),
        ([0.0, -1.015625, 0.0, 0.0], [0.0, -1.015625, 0.0, 0.0]),
    ],
}


def bits(x):
    return np.asarray(x).view(f"uint{8 * np.asarray(x).itemsize}")


def assert_same(actual, expected):
    """The same bits, but for those of NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    with np.errstate(invalid="ignore"):  # NaN that signals.
        differ = (bits(actual) != bits(expected)) & ~(np.isnan(actual) & np.isnan(expected))
    where = np.flatnonzero(differ)[:5]
    assert not differ.any(), f"{actual.flat[where]} for {expected.flat[where]}"


def test_formats():
    fp10 = FORMATS["fp10_154"]
    assert fp10 == FloatFormat(5, 4)
    assert (fp10.largest, fp10.smallest_normal, fp10.smallest) == (63488, 2**-14, 2**-18)
    for name, info in (
        ("float16", np.finfo(np.float16)),
        ("bfloat16", ml_dtypes.finfo("bfloat16")),
    ):
        assert FORMATS[name].largest == float(info.max)
        assert FORMATS[name].smallest_normal == float(info.smallest_normal)
        assert FORMATS[name].smallest == float(info.smallest_subnormal)
    for name, format in FORMATS.items():
        if name.startswith("fp"):
            total, digits = name[2:].split("_")
            assert int(total) == 1 + format.exponent_bits + format.mantissa_bits
            assert digits == f"1{format.exponent_bits}{format.mantissa_bits}"


@pytest.mark.parametrize("rounding", FP10)
def test_values_by_hand(rounding):
    x, expected = zip(*FP10[rounding].items(), strict=True)
    y = quantize(tf.constant(x, tf.float32), "fp10_154", rounding)
    np.testing.assert_array_equal(y, np.array(expected, np.float32))


def test_without_subnormals_values_below_the_smallest_normal_one_become_zero():
    smallest = 2.0**-14
    x = [smallest, smallest * (1 - 2**-7), smallest * (1 - 2**-5), -smallest / 2, -1e-30]
    y = quantize(tf.constant(x, tf.float32), "fp10_154", subnormals=False)
    assert_same(y, np.array([smallest, smallest, 0, -0.0, -0.0], np.float32))


@pytest.mark.parametrize("alignment", BLOCKS)
def test_blocks_by_hand(alignment):
    x, expected = (np.array(rows, np.float32) for rows in zip(*BLOCKS[alignment], strict=True))
    y = block_floating_point(tf.constant(x), 5, 4, alignment=alignment)
    np.testing.assert_array_equal(y, expected)
    # Groups along the first axis, and the signs of values.
    y = block_floating_point(tf.constant(-x.T), 5, 4, axis=0, alignment=alignment)
    np.testing.assert_array_equal(y, -expected.T)


CASTS = {
    np.float16: "float16",
    ml_dtypes.bfloat16: "bfloat16",
    ml_dtypes.float8_e5m2: "fp8_152",
}
if hasattr(ml_dtypes, "float8_e4m3"):  # Since 0.5.
    CASTS[ml_dtypes.float8_e4m3] = "fp8_143"


@pytest.mark.parametrize("other", CASTS)
def test_casts_of_other_libraries_give_the_same(rng, other):
    format = FORMATS[CASTS[other]]
    exponents = rng.uniform(format.emin - format.mantissa_bits - 2, format.emax, 100_000)
    x = (rng.choice([-1.0, 1.0], exponents.size) * 2.0**exponents).astype(np.float32)
    assert_same(quantize(tf.constant(x), format), x.astype(other).astype(np.float32))


def test_stochastic_rounding_is_unbiased_and_repeatable():
    x = tf.fill([200_000], 1.0 + 0.3 * 2.0**-4)
    y = quantize(x, "fp10_154", "stochastic", seed=7)
    share = np.mean(y.numpy() == 1.0625)
    assert set(np.unique(y)) == {1.0, 1.0625}
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 200_000)
    assert_same(quantize(x, "fp10_154", "stochastic", seed=tf.constant(7)), y)
    other = quantize(x, "fp10_154", "stochastic", seed=8).numpy() == 1.0625
    both = np.mean(other & (y.numpy() == 1.0625))
    assert abs(both - 0.3**2) < 5 * np.sqrt(0.09 * 0.91 / 200_000)  # Independent of the other.


def test_stochastic_rounding_of_values_far_below_the_smallest():
    quantum = FORMATS["fp10_154"].smallest
    for share in (0.9, 0.1, 2.0**-7):
        x = tf.fill([400_000], -share * quantum)
        y = quantize(x, "fp10_154", "stochastic", seed=3).numpy()
        assert set(np.unique(y)) == {0.0, -quantum}
        assert abs(np.mean(y != 0) - share) < 5 * np.sqrt(share / 400_000)


def test_without_a_seed_every_run_differs_and_the_global_seed_repeats_them():
    x = tf.fill([1000], 1.03)

    @tf.function
    def run():
        return quantize(x, "fp10_154", "stochastic")

    for draw in (run, lambda: quantize(x, "fp10_154", "stochastic")):
        found = []
        for _ in range(2):
            tf.random.set_seed(5)
            found.append([draw().numpy() for _ in range(2)])
            run = tf.function(run.python_function)  # The count of its runs belongs to the seed.
        assert (found[0][0] != found[0][1]).any()
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", rounding_oracles.DTYPES)
def test_gradients_pass_straight_through(rng, dtype):
    x = tf.cast(rng.normal(size=(5, 6)), dtype)
    dy = tf.cast(rng.normal(size=(5, 6)), dtype)
    of_gradient = {
        lambda t: quantize(t, "fp8_152"): dy,
        lambda t: quantize(t, "fp8_152", "truncate", gradient_format="fp10_163"): quantize(
            dy, "fp10_163", "truncate"
        ),
        lambda t: block_floating_point(t, 4, 4): dy,
        lambda t: block_floating_point(t, 4, 4, 0, gradient_mantissa_bits=3): block_floating_point(
            dy, 3, 4, 0
        ),
    }
    for function, expected in of_gradient.items():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        assert_same(tape.gradient(y, x, dy), expected)


def test_second_derivatives_pass_straight_through():
    x = tf.constant([1.03, -3.3, 0.3])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = quantize(x, "fp8_143") ** 3
        dx = inner.gradient(y, x)
    # d/dx of 3 q(x)^2, with q' = 1.
    np.testing.assert_array_equal(outer.gradient(dx, x), 6 * quantize(x, "fp8_143"))


def test_the_stochastic_gradient_has_random_numbers_of_its_own():
    x = tf.fill([10_000], 1.0 + 2.0**-5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = quantize(x, "fp10_154", "stochastic", gradient_format="fp10_154", seed=1)
    dx = tape.gradient(y, x, x).numpy() > 1
    assert abs(np.mean(dx == (y.numpy() > 1)) - 0.5) < 0.03
    assert abs(np.mean(dx) - 0.5) < 0.03


@pytest.mark.parametrize("shape", [(), (7,), (0,), (3, 0, 2), (2, 3, 4)], ids=str)
def test_any_shape_in_graphs_of_unknown_sizes(rng, shape):
    x = rng.normal(size=shape).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None] * len(shape), tf.float32)])
    def run(x):
        return quantize(x, "fp8_143"), block_floating_point(x, 3, 2, 0) if shape else x

    y, blocks = run(x)
    assert y.shape == blocks.shape == shape
    assert_same(y, quantize(x, "fp8_143"))
    if len(x.ravel()):
        expected = rounding_oracles.in_blocks(x, 3, 2, 0, "largest") if shape else x
        assert_same(blocks, expected.astype(np.float32))


X = tf.ones([2, 4])
FORMAT_ERRORS = {
    (0, 5): "FloatFormat: a format without an exponent is fixed point, so `exponent_bits` must be "
    r"2 to 8. Received: exponent_bits=0.",
    (1, 5): r"FloatFormat: `exponent_bits` must be an int in \[2, 8\]. Received: exponent_bits=1.",
    (9, 5): r"`exponent_bits` must be an int in \[2, 8\]",
    (5.0, 5): r"`exponent_bits` must be an int in \[2, 8\]. Received: exponent_bits=5.0.",
    (5, 0): r"`mantissa_bits` must be an int in \[1, 23\]. Received: mantissa_bits=0.",
    (5, 24): r"`mantissa_bits` must be an int in \[1, 23\]",
    (5, True): r"`mantissa_bits` must be an int in \[1, 23\]",
}
QUANTIZE_ERRORS = [
    (
        dict(format="fp9"),
        "quantize: `format` must be a FloatFormat or one of 'fp8_152', .*'float16'",
    ),
    (dict(format=None), "`format` must be a FloatFormat or one of"),
    (dict(gradient_format="half"), "`gradient_format` must be a FloatFormat or one of .*'half'"),
    (dict(rounding="up"), "`rounding` must be one of 'nearest_even', 'truncate', 'stochastic'"),
    (dict(subnormals=None), "`subnormals` must be a bool. Received: subnormals=None"),
    (dict(seed=0.5), "`seed` must be None, an int of 64 bits or a scalar int tensor"),
    (dict(seed=2**63), "`seed` must be None, an int of 64 bits"),
    (dict(seed=tf.constant([1])), "`seed` must be None, an int of 64 bits"),
    (dict(x=[1, 2]), "`x` must be float16, bfloat16, float32 or float64. Received: dtype='int32'"),
]
BLOCK_ERRORS = [
    (dict(mantissa_bits=1), r"block_floating_point: `mantissa_bits` must be an int in \[2, 24\]"),
    (dict(mantissa_bits=25), r"`mantissa_bits` must be an int in \[2, 24\]. Received: .*=25"),
    (dict(gradient_mantissa_bits=0), r"`gradient_mantissa_bits` must be an int in \[2, 24\]"),
    (dict(block_size=5), "`block_size` must be .* at most the size of the axis. .*=5, size=4"),
    (dict(block_size=0), "`block_size` must be a positive int, at most the size of the axis"),
    (dict(axis=2), r"`axis` must be an int in \[-2, 2\) for an input of rank 2. Received: axis=2"),
    (dict(axis=None), r"`axis` must be an int in \[-2, 2\)"),
    (dict(x=1.0), "`x` must have a known rank above 0. Received: rank=0"),
    (dict(alignment="max"), "`alignment` must be one of 'largest', 'second_largest'"),
]


@pytest.mark.parametrize("sizes", FORMAT_ERRORS, ids=str)
def test_rejects_formats(sizes):
    with pytest.raises(ValueError, match=FORMAT_ERRORS[sizes]):
        FloatFormat(*sizes)


@pytest.mark.parametrize("given, message", QUANTIZE_ERRORS, ids=lambda value: str(value)[:30])
def test_quantize_rejects(given, message):
    with pytest.raises(ValueError, match=message):
        quantize(**{"x": X, "format": "fp8_152", **given})


@pytest.mark.parametrize("given, message", BLOCK_ERRORS, ids=lambda value: str(value)[:30])
def test_block_floating_point_rejects(given, message):
    with pytest.raises(ValueError, match=message):
        block_floating_point(**{"x": X, "mantissa_bits": 4, "block_size": 2, **given})
