"""Extremes and additions at places: the compiled operations against plain TensorFlow and NumPy.

Forms: the op kernel, and under XLA the same kernel called through FFI or the operation as HLO.
"""

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.ops import choice, reference
from keras_norms.ops import native as operations
from tests.selection import BOTH

pytestmark = pytest.mark.each_tensorflow

DTYPES = ["float32", "float64", "float16", "bfloat16"]
# Shape, channel axis, segment size.
CASES = {
    "dense": ((65, 7), 1, None),
    "dense_segments": ((67, 40), 1, 8),
    "last": ((3, 5, 6, 33), 3, 2),
    "first": ((3, 5, 9, 11), 1, 2),
    "channels_outermost": ((7, 50), 0, None),
    "middle": ((3, 2, 4, 2, 2), 2, None),
    "few_positions": ((3, 4), 1, None),
    "one_long_segment": ((5, 3), 1, 2**62),
    "empty_batch": ((0, 4, 5), 2, None),
    "empty_batch_segments": ((0, 4, 5), 2, 2),
    "empty_rows": ((3, 0, 5), 2, 2),
    "empty_inner": ((3, 5, 0), 1, None),
    "no_channels": ((3, 4, 0), 2, 2),
}


# TensorFlow 2.15 has no FFI: there both forms under XLA are the same.
@pytest.fixture(params=["kernel", "ffi", pytest.param("hlo", marks=pytest.mark.main_leg)])
def form(request, monkeypatch):
    if request.param == "hlo":
        monkeypatch.setenv("KERAS_NORMS_XLA", "hlo")
    return request.param


def compiled(form, function):
    """The function as a graph that knows the rank of its tensors only."""

    def run(*tensors):
        specs = [tf.TensorSpec([None] * t.shape.rank, t.dtype) for t in tensors]
        return tf.function(function, input_signature=specs, jit_compile=form != "kernel")(*tensors)

    return run


def call(operation, options):
    return lambda x, weights=None: operation(x, weights=weights, **options)


def expected_extremes(x, axis, chunks, weights, segment_size):
    """Plain loops in float64: count, mean, low, high, low_at, high_at and the deviation."""
    channels, positions = x.shape[axis], np.prod(np.delete(x.shape, axis))
    place = np.moveaxis(np.arange(x.size).reshape(x.shape), axis, -1).reshape(positions, channels)
    values = np.moveaxis(x, axis, -1).reshape(positions, channels)
    counts = np.ones(len(values), bool)
    for each in weights:  # None or one.
        counts = np.moveaxis(each.numpy(), axis, -1).reshape(-1) > 0
    pieces = [(0, len(values))]
    if segment_size:
        rows, of_row = min(segment_size, len(x)), len(values) // max(len(x), 1)
        starts = range(0, len(x), max(rows, 1))
        pieces = [(i * of_row, min(i + rows, len(x)) * of_row) for i in starts]
    found = []
    for begin, end in pieces:
        n = end - begin
        used = max(1, min(chunks, n // 2))
        for chunk in range(chunks):
            size = n // used + (chunk < n % used) if chunk < used else 0
            here = np.arange(begin, begin + size)
            here = here[counts[here]]
            begin += size
            some = values[here] if len(here) else np.zeros((1, channels))
            at = place[here] if len(here) else np.zeros((1, channels), int)
            low, high = some.argmin(0), some.argmax(0)
            each = np.arange(channels)
            found.append(
                [
                    np.array([len(here)], float),
                    some.mean(0),
                    *(some[low, each], some[high, each], at[low, each], at[high, each]),
                    some.std(0),
                ]
            )
    lead = [len(pieces), chunks] if segment_size else [chunks]
    sizes = [1] + [channels] * 6
    return [np.reshape([each[i] for each in found], [*lead, size]) for i, size in enumerate(sizes)]


def check(found, x, weights, axis, chunks, segment_size, dtype):
    exact = tf.cast(x, tf.float64).numpy()
    *expected, deviation = expected_extremes(exact, axis, chunks, weights, segment_size)
    for i, (actual, wanted) in enumerate(zip(found, expected, strict=True)):
        assert actual.shape == wanted.shape
        if i != 1:
            np.testing.assert_array_equal(actual, wanted)
    precision = 1e-12 if dtype == "float64" else 1e-6
    assert np.all(
        np.abs(found.mean - expected[1]) <= precision * deviation + 1e-15 * np.abs(expected[1])
    )


def activation(rng, shape, dtype, offset=0.0):
    """With many equal values."""
    return tf.cast(offset + np.round(2.0 * rng.normal(size=shape)) / 2.0, dtype)


def mask(rng, x, axis):
    """Weights, some of them 0, and the activation with NaN there."""
    shape = [1 if i == axis else n for i, n in enumerate(x.shape)]
    weights = tf.constant(rng.integers(0, 3, shape).astype(float))
    x = tf.where(weights > 0.0, x, tf.cast(np.nan, x.dtype))
    return x, tf.cast(weights, "float64" if x.dtype == tf.float64 else "float32")


@pytest.mark.parametrize("case", CASES)
def test_extremes(native, rng, form, case):
    shape, axis, segment_size = CASES[case]
    is_thorough = case in ("last", "first")
    for dtype in DTYPES if is_thorough else ["float32"]:
        # XLA compiles each of them, without a mask for one dtype only.
        for masked in (False, True) if form == "kernel" or dtype == "float32" else (True,):
            x, weights = activation(rng, shape, dtype), []
            if masked:
                x, *weights = mask(rng, x, axis)
            for chunks in (1, 3, 8) if is_thorough and form == "kernel" else (3,):
                options = dict(axis=axis, chunks=chunks, segment_size=segment_size)
                found = compiled(form, call(operations.extremes, options))(x, *weights)
                check(found, x, weights, dtype=dtype, **options)
                if form == "kernel":
                    found = call(reference.extremes, options)(x, *weights)
                    check(found, x, weights, dtype=dtype, **options)


@pytest.mark.parametrize("axis", [1, 3])
def test_values_far_from_zero_and_the_smallest(native, rng, form, axis):
    far = activation(rng, (6, 40, 7, 9), "float32", offset=1e6)
    subnormal = tf.constant(rng.integers(-1000, 1000, (6, 40, 7, 9)) * 2.0**-24, tf.float16)
    options = dict(axis=axis, chunks=4, segment_size=None)
    for x in (far, subnormal):
        found = compiled(form, call(operations.extremes, options))(x)
        check(found, x, [], dtype=x.dtype.name, **options)
        check(reference.extremes(x, **options), x, [], dtype=x.dtype.name, **options)


def test_means_are_right_where_sums_overflow(native, form):
    largest = np.finfo(np.float32).max
    x = tf.constant(np.where(np.arange(300) % 3 == 1, -1.0, 1.0) * largest, tf.float32)
    for shape, axis in (((100, 3), 1), ((1, 1, 300), 1), ((2, 3, 50), 1)):
        options = dict(axis=axis, chunks=2, segment_size=None)
        found = compiled(form, call(operations.extremes, options))(tf.reshape(x, shape))
        check(found, tf.reshape(x, shape), [], dtype="float32", **options)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_chunk_that_is_not_finite_has_no_finite_mean(native, form, bad):
    x = np.ones((8, 3), np.float32)
    x[5, 1] = bad
    found = compiled(form, lambda x: operations.extremes(x, axis=1, chunks=2))(tf.constant(x))
    finite = np.array([[True, True, True], [True, False, True]])
    np.testing.assert_array_equal(np.isfinite(found.mean), finite)
    for name in ("low", "high"):
        np.testing.assert_array_equal(getattr(found, name).numpy()[finite], 1.0)


def test_shapes_are_known_before_the_values(native):
    def shapes(spec, segment_size):
        def compute(x):
            return operations.extremes(x, axis=2, chunks=4, segment_size=segment_size)

        function = tf.function(compute, input_signature=[tf.TensorSpec(spec)])
        return [shape.as_list() for shape in function.get_concrete_function().output_shapes]

    assert shapes([5, 3, 7], None) == [[4, 1]] + [[4, 7]] * 5
    assert shapes([5, 3, 7], 2) == [[3, 4, 1]] + [[3, 4, 7]] * 5
    assert shapes([None, 3, 7], 2) == [[None, 4, 1]] + [[None, 4, 7]] * 5


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_at(rng, form, dtype):
    x = tf.cast(rng.normal(size=(4, 3, 5)), dtype)
    places = rng.permutation(60)[:24].reshape(2, 3, 4)
    values = rng.normal(size=(3, 4))
    values[0, 0], places[:, 0, 0] = 0.0, 0  # A chunk in which nothing counts.
    high_at, low_at = (tf.constant(part, tf.int64) for part in places)

    def compute(x, values, high_at, low_at):
        y = tf.negative(x)  # Its memory may hold the result; that of x may not.
        return choice.kernels_in_use().add_at(y, values, high_at, low_at)

    before = x.numpy()
    y = compiled(form, compute)(x, tf.constant(values), high_at, low_at)
    expected = -tf.cast(x, tf.float64).numpy().ravel()
    np.add.at(expected, places[0], values)
    np.subtract.at(expected, places[1], values)
    assert y.dtype == x.dtype and y.shape == x.shape
    found = tf.cast(y, tf.float64).numpy().ravel()
    untouched = np.setdiff1d(np.arange(60), places)
    np.testing.assert_array_equal(found[untouched], expected[untouched])
    # A value is rounded, then the sum: twice the last place of numbers below 8.
    last_place = 4.0 * {"float64": 2**-52, "float32": 2**-23, "float16": 2**-10}.get(dtype, 2**-7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2.0 * last_place)
    np.testing.assert_array_equal(x.numpy(), before)


@BOTH
def test_gradients_of_add_at_to_second_order(rng, form):
    x, values = tf.constant(rng.normal(size=(4, 3))), tf.constant(rng.normal(size=(2, 3)))
    places = rng.permutation(12)[:12].reshape(2, 2, 3)
    high_at, low_at = (tf.constant(part, tf.int64) for part in places)
    factors = rng.normal(size=(4, 3))

    def compute(x, values):
        with tf.GradientTape() as outer:
            outer.watch([x, values])
            with tf.GradientTape() as inner:
                inner.watch([x, values])
                y = choice.kernels_in_use().add_at(x, values, high_at, low_at)
                target = tf.reduce_sum(factors * tf.sin(y))
            first = inner.gradient(target, [x, values])
            of_both = sum(tf.reduce_sum(tf.square(gradient)) for gradient in first)
        return first, outer.gradient(of_both, [x, values])

    def oracle(x, values):
        """Gradients of the target, and of the sum of their squares."""
        y = x.copy().ravel()
        y[places[0]] += values
        y[places[1]] -= values
        dy, slope = factors.ravel() * np.cos(y), -factors.ravel() * np.sin(y)
        of_values = dy[places[0]] - dy[places[1]]
        second = 2.0 * dy * slope
        second[places[0]] += 2.0 * of_values * slope[places[0]]
        second[places[1]] -= 2.0 * of_values * slope[places[1]]
        of_second = second[places[0]] - second[places[1]]
        return (dy.reshape(x.shape), of_values), (second.reshape(x.shape), of_second)

    found = compiled(form, compute)(x, values)
    expected = oracle(x.numpy(), values.numpy())
    for actual, wanted in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-14)
