"""The kernels: values against NumPy in float64, gradients of both orders against differences."""

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.ops import kernels
from tests import oracles
from tests.selection import BOTH

pytestmark = [BOTH, pytest.mark.each_tensorflow]

LAYOUTS = {
    "dense": ((6, 3), 1),
    "nhwc": ((5, 2, 3, 4), 3),
    "nchw": ((5, 4, 2, 3), 1),
    "middle": ((3, 2, 4, 2, 2), 2),
    "one_channel": ((4, 5, 1), 2),
    "rank6": ((2, 2, 1, 2, 3, 2), 5),
}


@pytest.fixture(params=LAYOUTS, ids=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture(params=[None, 2, 4], ids=["whole", "segments2", "segments4"])
def segment_size(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "weights"])
def has_weights(request):
    return request.param


def case(rng, layout, has_weights, dtype=np.float64):
    shape, axis = layout
    x = rng.normal(size=shape).astype(dtype)
    row_shape = [1 if a == axis else n for a, n in enumerate(shape)]
    weights = rng.integers(0, 3, row_shape).astype(dtype) if has_weights else None
    return x, axis, weights


def constant(value):
    return None if value is None else tf.constant(value)


def segments(x, segment_size):
    size = segment_size or len(x)
    return [slice(i, i + size) for i in range(0, len(x), size)]


def over_rows(x, axis):
    return tuple(a for a in range(x.ndim) if a != axis)


def expand(vector, x, axis):
    return np.reshape(vector, [-1] + [1] * (x.ndim - axis - 1))


def expected_moments(x, axis, weights, segment_size):
    rows = []
    for part in segments(x, segment_size):
        mask = None if weights is None else weights[part]
        rows.append([np.ravel(v) for v in oracles.moments(x[part], axis, mask)])
    count, mean, variance = (np.stack(v) for v in zip(*rows, strict=True))
    return (v if segment_size else v[0] for v in (count, mean, count * variance))


def test_moments(rng, layout, segment_size, has_weights):
    x, axis, weights = case(rng, layout, has_weights)
    count, mean, m2 = kernels.moments(
        tf.constant(x), axis=axis, weights=constant(weights), segment_size=segment_size
    )
    expected = expected_moments(x, axis, weights, segment_size)
    expected_count, expected_mean, expected_m2 = expected
    oracles.assert_close(np.broadcast_to(count, expected_count.shape), expected_count, "float64")
    oracles.assert_close(mean, expected_mean, "float64")
    oracles.assert_close(m2, expected_m2, "float64")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_moments_accumulate_beyond_the_input_dtype(rng, dtype):
    x = tf.cast(rng.normal(3.0, 1.0, (64, 9, 5)), dtype)
    exact = tf.cast(x, tf.float64).numpy()
    count, mean, m2 = kernels.moments(x, axis=2)
    expected_count, expected_mean, variance = (np.ravel(v) for v in oracles.moments(exact))
    assert count.numpy() == [64 * 9]
    oracles.assert_close(mean, expected_mean, "float64" if dtype == "float64" else "float32")
    oracles.assert_close(
        m2, expected_count * variance, "float64" if dtype == "float64" else "float32"
    )


@pytest.mark.parametrize("mean, stddev", [(1e4, 0.1), (1e6, 1.0), (-3e5, 0.25)])
@pytest.mark.parametrize("shape", [(4096, 3), (65_601, 3), (8, 56, 56, 3), (64, 200, 3)])
def test_moments_are_exact_at_any_offset(rng, mean, stddev, shape):
    x = rng.normal(mean, stddev, shape).astype(np.float32)
    _, got_mean, m2 = kernels.moments(tf.constant(x), axis=len(shape) - 1)
    count, expected_mean, variance = (np.ravel(v) for v in oracles.moments(x))
    np.testing.assert_allclose(got_mean, expected_mean, atol=1e-7 * stddev, rtol=0)
    np.testing.assert_allclose(m2, count * variance, rtol=2e-6)


def test_sums(rng, layout, segment_size, has_weights):
    u, axis, weights = case(rng, layout, has_weights)
    v = rng.normal(size=u.shape)
    parts = segments(u, segment_size)
    center = rng.normal(size=(len(parts), u.shape[axis]))
    sum_u, sum_uv = kernels.sums(
        u=tf.constant(u),
        v=tf.constant(v),
        center=tf.constant(center if segment_size else center[0]),
        axis=axis,
        weights=constant(weights),
        weighted=has_weights,
        segment_size=segment_size,
    )
    wu = u if weights is None else u * weights
    rows = over_rows(u, axis)
    expected_u = np.stack([wu[p].sum(rows) for p in parts])
    expected_uv = np.stack(
        [
            (wu[p] * (v[p] - expand(c, v, axis))).sum(rows)
            for p, c in zip(parts, center, strict=True)
        ]
    )
    pick = slice(None) if segment_size else 0
    oracles.assert_close(sum_u, expected_u[pick], "float64", 30)
    oracles.assert_close(sum_uv, expected_uv[pick], "float64", 30)


def test_blend(rng, layout, segment_size, has_weights):
    u, axis, weights = case(rng, layout, has_weights)
    v = rng.normal(size=u.shape)
    parts = segments(u, segment_size)
    vectors = {name: rng.normal(size=(len(parts), u.shape[axis])) for name in "abcm"}
    given = {k: tf.constant(t if segment_size else t[0]) for k, t in vectors.items()}
    y = kernels.blend(
        u=tf.constant(u),
        v=tf.constant(v),
        a=given["a"],
        b=given["b"],
        c=given["c"],
        center=given["m"],
        axis=axis,
        weights=constant(weights),
        weighted=has_weights,
        segment_size=segment_size,
    )
    w = np.ones_like(u) if weights is None else weights
    expected = np.empty_like(u)
    for i, part in enumerate(parts):
        a, b, c, m = (expand(vectors[k][i], u, axis) for k in "abcm")
        expected[part] = a * u[part] + (w * np.ones_like(u))[part] * (b * (v[part] - m) + c)
    oracles.assert_close(y, expected, "float64")


def test_absent_terms_of_blend_are_zero(rng):
    u, v, a, b, c = (rng.normal(size=s) for s in ((4, 3), (4, 3), 3, 3, 3))
    oracles.assert_close(
        kernels.blend(u=tf.constant(u), a=tf.constant(a), axis=1), a * u, "float64"
    )
    oracles.assert_close(
        kernels.blend(v=tf.constant(v), b=tf.constant(b), axis=1), b * v, "float64"
    )
    y = kernels.blend(v=tf.constant(v), b=tf.constant(b), c=tf.constant(c), axis=1)
    oracles.assert_close(y, b * v + c, "float64")


@pytest.mark.parametrize("weighted", [False, True])
def test_nan_of_weight_zero_is_read_as_the_center(rng, weighted):
    v = rng.normal(size=(4, 3))
    u = rng.normal(size=(4, 3))
    weights = np.array([[1.0], [0.0], [2.0], [1.0]])
    center, b, c = (tf.constant(rng.normal(size=3)) for _ in range(3))
    clean, spoiled = v.copy(), v.copy()
    clean[1], spoiled[1] = center.numpy(), [np.nan, np.inf, -np.inf]
    options = dict(axis=1, weights=constant(weights), weighted=weighted)
    for function in (
        lambda v: kernels.sums(u=tf.constant(u), v=tf.constant(v), center=center, **options),
        lambda v: kernels.blend(v=tf.constant(v), b=b, c=c, center=center, **options),
    ):
        np.testing.assert_array_equal(function(spoiled), function(clean))
    moments = [
        kernels.moments(tf.constant(t), axis=1, weights=constant(weights)) for t in (spoiled, clean)
    ]
    for got, expected in zip(*moments, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_value_of_weight_zero_is_normalized_but_not_counted(rng):
    v = rng.normal(size=(3, 2))
    weights = np.array([[1.0], [0.0], [1.0]])
    count, mean, _ = kernels.moments(tf.constant(v), axis=1, weights=constant(weights))
    assert count.numpy() == [2.0]
    oracles.assert_close(mean, (v[0] + v[2]) / 2, "float64")
    b = tf.ones(2, tf.float64)
    y = kernels.blend(v=tf.constant(v), b=b, center=mean, axis=1, weights=constant(weights))
    oracles.assert_close(y, v - mean.numpy(), "float64")


@pytest.mark.parametrize("shape, axis", [((0, 3), 1), ((0, 4, 3), 2), ((2, 0, 3), 2)])
def test_empty_input_gives_zeros_and_no_nan(shape, axis):
    x = tf.zeros(shape)
    count, mean, m2 = kernels.moments(x, axis=axis)
    np.testing.assert_array_equal(np.concatenate([count, mean, m2]), np.zeros(7))
    sums = kernels.sums(u=x, v=x, center=mean, axis=axis)
    np.testing.assert_array_equal(np.concatenate(sums), np.zeros(6))
    assert kernels.blend(v=x, b=mean, c=mean, center=mean, axis=axis).shape == shape


GRADIENT_CASES = {
    "plain": dict(weighted=False, weights=False, segment_size=None),
    "weights": dict(weighted=True, weights=True, segment_size=None),
    "invalid_only": dict(weighted=False, weights=True, segment_size=None),
    "segments": dict(weighted=True, weights=True, segment_size=2),
}


@pytest.mark.parametrize("options", GRADIENT_CASES.values(), ids=GRADIENT_CASES)
@pytest.mark.parametrize("kernel", ["moments", "sums", "scaled", "deviations", "blend"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.main_leg
def test_gradients_against_differences(rng, kernel, options, order):
    """Order 2 differentiates a function of all first-order gradients."""
    shape, axis = (3, 2, 2), 2
    options = dict(options)
    weights = np.array([1.0, 0.0, 2.0, 0.5, 1.0, 0.0]).reshape(3, 2, 1)
    options["weights"] = constant(weights) if options["weights"] else None
    vectors = (2,) if options["segment_size"] is None else (2, 2)
    if kernel == "moments":
        inputs = {"x": rng.normal(size=shape)}
        options.pop("weighted")
    elif kernel in ("sums", "scaled", "deviations"):
        inputs = dict(u=rng.normal(size=shape), v=rng.normal(size=shape))
        inputs["center"] = rng.normal(size=vectors)
        if kernel != "sums":
            inputs["scale"] = rng.normal(size=vectors)
        if kernel == "deviations":
            inputs["shift"] = rng.normal(size=vectors)
            del inputs["u"]
        kernel = "sums"
    else:
        inputs = dict(u=rng.normal(size=shape), v=rng.normal(size=shape))
        inputs |= {name: rng.normal(size=vectors) for name in ("a", "b", "c", "center")}
    coefficients = [rng.normal(size=32) for _ in range(8)]

    def scalar(tensors, coefficients):
        flat = [tf.reshape(t, [-1]) for t in tensors]
        return sum(
            tf.reduce_sum((t + t**2) * c[: t.shape[0]])
            for t, c in zip(flat, coefficients, strict=False)
        )

    def first(tensors):
        results = getattr(kernels, kernel)(**tensors, axis=axis, **options)
        return scalar(tf.nest.flatten(results), coefficients)

    def second(tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = first(tensors)
        return scalar(tape.gradient(value, list(tensors.values())), coefficients[::-1])

    function = first if order == 1 else second
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(tensors)
    gradients = tape.gradient(value, tensors)
    for name, gradient in gradients.items():
        numerical = oracles.numerical_gradient(
            lambda value, name=name: function(tensors | {name: tf.constant(value)}), inputs[name]
        )
        scale = np.abs(numerical).max()
        np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-7 * scale, err_msg=name)
