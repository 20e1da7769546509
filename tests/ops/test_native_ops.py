"""The compiled operations: values in every form they run in, and what they refuse.

Forms: the op kernel, and under XLA the same kernel called through FFI or the operation as HLO.
"""

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.ops import library, native
from tests import oracles

pytestmark = pytest.mark.each_tensorflow

# Shape, channel axis, segment size.
CASES = {
    "dense": ((65, 7), 1, 0),
    "dense_segments": ((65, 7), 1, 8),
    "one_channel": ((33, 5, 1), 2, 0),
    "rgb_last": ((4, 9, 11, 3), 3, 0),
    "rgb_first": ((4, 3, 9, 11), 1, 0),
    "odd_last": ((3, 5, 6, 65), 3, 2),
    "odd_first": ((3, 65, 5, 6), 1, 2),
    "middle": ((3, 2, 4, 2, 2), 2, 2),
    "rank6": ((2, 2, 1, 2, 3, 2), 5, 0),
    "channels_outermost": ((7, 50), 0, 0),
    "wide": ((9, 2048), 1, 4),
    "wider": ((3, 10007), 1, 0),
    "wider_first": ((2, 10007, 3), 1, 0),
    "one_long_segment": ((5, 3), 1, 2**62),
    "empty_batch": ((0, 4, 5), 2, 0),
    "empty_batch_segments": ((0, 4, 5), 2, 2),
    "empty_rows": ((3, 0, 5), 2, 2),
    "empty_inner": ((3, 5, 0), 1, 0),
    "no_channels": ((3, 4, 0), 2, 0),
}
DTYPES = ["float32", "float64", "float16", "bfloat16"]
# XLA has code of ours for each layout and dtype, but not for each of their pairs.
XLA_CASES = ["dense_segments", "odd_last", "odd_first"]
FORMS = ["kernel", "xla", "xla_hlo"]
# TensorFlow 2.15 has no FFI: there both forms under XLA are the same.
MARKS = {"xla_hlo": pytest.mark.main_leg}
VALUES = [
    pytest.param(form, case, dtype, weighted, marks=MARKS.get(form, ()))
    for form in FORMS
    for case in CASES
    for dtype in DTYPES
    for weighted in (False, True)
    if form == "kernel" or case in XLA_CASES or (dtype, weighted) == ("float32", True)
]
RESULTS = ["count", "mean", "m2", "sum_u", "sum_uv", "scaled_u", "sum_p", "sum_pp", "scaled", "y"]
ACTIVATIONS = ["scaled_u", "scaled", "y"]


@pytest.fixture
def ops(native):
    return library.ops()


@pytest.fixture(params=[pytest.param(form, marks=MARKS.get(form, ())) for form in FORMS])
def form(request, monkeypatch):
    if request.param == "xla_hlo":
        monkeypatch.setenv("KERAS_NORMS_XLA", "hlo")
    return request.param


def arguments(rng, shape, axis, segment_size, dtype, weighted, offset=3.0):
    """Activations in `dtype`, vectors in float64 and weights, some of them 0 over NaN."""
    u, v = (tf.cast(rng.normal(offset, 1.0, shape), dtype) for _ in "uv")
    weights = None
    if weighted:
        weights = rng.integers(0, 3, [1 if i == axis else n for i, n in enumerate(shape)])
        v = tf.where(tf.constant(weights == 0), tf.cast(np.nan, dtype), v)
        weights = tf.cast(weights, "float64" if dtype == "float64" else "float32")
    size = [-(-shape[0] // segment_size)] if segment_size else []
    vectors = {name: tf.constant(rng.normal(size=[*size, shape[axis]])) for name in "abc"}
    vectors["center"] = tf.constant(rng.normal(offset, 0.1, [*size, shape[axis]]))
    return dict(u=u, v=v, weights=weights, **vectors)


def results(ops, u, v, a, b, c, center, weights, axis, segment_size):
    """Every result of the three operations, under the names of RESULTS."""
    weighted = weights is not None
    weights = [weights] if weighted else []
    options = dict(weights=weights, axis=axis, segment_size=segment_size)
    moments = ops.keras_norms_moments(x=v, **options)
    both = dict(v=[v], scale=[a], weighted=weighted, **options)
    sums = ops.keras_norms_sums(u=[u], center=[center], shift=[], **both)
    # Without u the centre is taken in the compute dtype, here by the caller.
    narrow = tf.cast(tf.cast(center, _compute_dtype(u)), tf.float64)
    deviations = ops.keras_norms_sums(u=[], center=[narrow], shift=[c], **both)
    y = ops.keras_norms_blend(
        u=[u], v=[v], a=[a], b=[b], c=[c], center=[center], weighted=weighted, **options
    )
    found = [*moments, sums.sum_u, sums.sum_uv[0], sums.y[0]]
    found += [deviations.sum_u, deviations.sum_uv[0], deviations.y[0], y]
    return dict(zip(RESULTS, found, strict=True))


def _compute_dtype(x):
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def expected_results(u, v, a, b, c, center, weights, axis, segment_size):
    """The same in float64 NumPy."""
    narrow = tf.cast(tf.cast(center, _compute_dtype(u)), tf.float64).numpy()
    u, v = (tf.cast(t, tf.float64).numpy() for t in (u, v))
    run = min(segment_size or len(u), max(len(u), 1)) or 1
    starts = range(0, len(u), run) if segment_size else [0]
    row_shape = [1 if i == axis else n for i, n in enumerate(u.shape)]
    w = np.ones(row_shape) if weights is None else weights.numpy()

    def expand(vector):
        vector = np.repeat(vector, run, 0)[: len(u)] if segment_size else np.asarray(vector)
        kept = (0, axis) if segment_size else (axis,)
        return vector.reshape([n if i in kept else 1 for i, n in enumerate(u.shape)])

    def total(values):
        rows = tuple(i for i in range(u.ndim) if i != axis)
        parts = [values[i : i + run].sum(rows) for i in starts]
        return np.reshape(parts, [len(starts)] * bool(segment_size) + [values.shape[axis]])

    count = total(w)
    x = np.where(w > 0, v, 0.0)
    mean = total(w * x) / np.maximum(count, 1.0)
    m2 = total(w * (x - expand(mean)) ** 2)
    centred = np.where(w > 0, v - expand(center), 0.0)
    y = expand(a) * u + w * (expand(b) * centred + expand(c))
    p = np.where(w > 0, v - expand(narrow), 0.0)
    found = [count, mean, m2, total(w * u), total(w * u * centred), expand(a) * u]
    found += [total(w * p), total(w * p * p), expand(a) * p + expand(c), y]
    return dict(zip(RESULTS, found, strict=True))


@pytest.mark.parametrize("form, case, dtype, weighted", VALUES, indirect=["form"])
def test_values(ops, rng, form, case, dtype, weighted):
    shape, axis, segment_size = CASES[case]
    given = arguments(rng, shape, axis, segment_size, dtype, weighted)
    expected = expected_results(**given, axis=axis, segment_size=segment_size)

    @tf.function(jit_compile=form != "kernel")
    def compute(given):
        return results(ops, **given, axis=axis, segment_size=segment_size)

    found = compute(given)
    np.testing.assert_array_equal(found["count"], expected["count"])
    for name in RESULTS:
        precision = dtype if dtype == "float64" or name in ACTIVATIONS else "float32"
        oracles.assert_close(
            tf.cast(found[name], tf.float64), expected[name], precision, max(shape[0], 1), 10.0
        )


@pytest.mark.parametrize("offset, dtype", [(1e4, "float32"), (1e6, "float32"), (1e9, "float64")])
@pytest.mark.parametrize("case", ["dense", "rgb_last", "rgb_first", "odd_last", "odd_first"])
def test_values_are_exact_far_from_zero(ops, rng, form, case, offset, dtype):
    shape, axis, segment_size = CASES[case]
    given = arguments(rng, shape, axis, segment_size, dtype, False, offset)
    given["u"] = tf.cast(rng.normal(size=shape), dtype)
    expected = expected_results(**given, axis=axis, segment_size=segment_size)

    @tf.function(jit_compile=form != "kernel")
    def compute(given):
        return results(ops, **given, axis=axis, segment_size=segment_size)

    found = compute(given)
    oracles.assert_close(found["mean"] - offset, expected["mean"] - offset, "float32", 1, 1.0)
    for name in ("m2", "sum_uv", "sum_p", "sum_pp", "scaled", "y"):
        oracles.assert_close(found[name], expected[name], "float32", shape[0] * 10)


def test_absent_operands(ops, rng, form):
    given = arguments(rng, (5, 6, 3), 2, 0, "float32", True)
    u, a, c, weights = (given[name] for name in ("u", "a", "c", "weights"))

    @tf.function(jit_compile=form != "kernel")
    def compute():
        nothing = dict(scale=[], shift=[], weights=[], axis=2)
        sums = ops.keras_norms_sums(u=[u], v=[], center=[], **nothing)
        squares = ops.keras_norms_sums(u=[], v=[u], center=[], **nothing)
        none = dict(b=[], v=[], center=[], axis=2)
        scaled = ops.keras_norms_blend(u=[u], a=[a], c=[], weights=[], **none)
        shifted = ops.keras_norms_blend(
            u=[u], a=[a], c=[c], weights=[weights], weighted=True, **none
        )
        return sums.sum_u, squares.sum_u, squares.sum_uv[0], scaled, shifted

    sum_u, sum_v, sum_of_squares, scaled, shifted = compute()
    exact = u.numpy().astype(np.float64)
    oracles.assert_close(sum_u, exact.sum((0, 1)), terms=30)
    oracles.assert_close(sum_v, exact.sum((0, 1)), terms=30)
    oracles.assert_close(sum_of_squares, (exact**2).sum((0, 1)), terms=30)
    oracles.assert_close(scaled, a * exact)
    oracles.assert_close(shifted, a * exact + weights.numpy() * c)


def test_vectors_in_float32_and_shared_by_segments(ops, rng, form):
    given = arguments(rng, (7, 4, 3), 2, 2, "float32", False)
    first = {name: tf.cast(given[name][0], tf.float32) for name in ("a", "b", "c", "center")}

    @tf.function(jit_compile=form != "kernel")
    def blend(segment_size):
        u, v = given["u"], given["v"]
        vectors = {name: [vector] for name, vector in first.items()}
        return ops.keras_norms_blend(
            u=[u], v=[v], weights=[], axis=2, segment_size=segment_size, **vectors
        )

    u, v = (given[name].numpy().astype(np.float64) for name in "uv")
    exact = first["a"] * u + first["b"] * (v - first["center"]) + first["c"]
    oracles.assert_close(blend(2), exact)
    oracles.assert_close(blend(0), exact)


def test_the_batch_may_change_from_call_to_call(ops, form):
    @tf.function(jit_compile=form != "kernel", input_signature=[tf.TensorSpec([None, 4, 3])])
    def compute(x):
        return ops.keras_norms_moments(x=x, weights=[], axis=2, segment_size=2)

    for batch, segments in [(5, 3), (0, 0), (2, 1)]:
        count, mean, m2 = compute(tf.ones([batch, 4, 3]))
        assert count.shape == [segments, 1] and mean.shape == m2.shape == [segments, 3]


@pytest.mark.parametrize("form", ["xla", "xla_hlo"], indirect=True)
def test_xla_on_the_cpu_calls_the_compiled_kernels_where_it_can(ops, native, form):
    @tf.function(jit_compile=True)
    def compute(x):
        return ops.keras_norms_moments(x=x, weights=[], axis=1)

    compiled = compute.experimental_get_compiler_ir(tf.ones([8, 3]))
    calls = form == "xla" and native.xla == "ffi"
    assert ('custom_call_target="keras_norms_moments"' in compiled(stage="hlo")) == calls
    if native.xla == "ffi":  # TensorFlow versions that can compile for a device that is not there.
        on_gpu = compiled(stage="hlo", platform_name="GPU")
        assert "reduce(" in on_gpu and "custom-call" not in on_gpu


def test_blend_reuses_the_memory_of_an_unneeded_input(ops):
    def address(tensor):
        # NumPy sees the memory of the tensor.
        where = tf.numpy_function(lambda array: np.int64(array.ctypes.data), [tensor], tf.int64)
        return tf.ensure_shape(where, [])

    @tf.function
    def compute(x, keep):
        v = x + 1.0
        before = address(v)
        with tf.control_dependencies([before]):
            y = ops.keras_norms_blend(
                u=[], v=[v], a=[], b=[tf.fill([64], 2.0)], c=[], center=[], weights=[], axis=1
            )
        after = address(y)
        with tf.control_dependencies([after]):
            kept = v + 0.0 if keep else y
        return before, after, y, kept

    x = tf.random.normal([512, 64])
    before, after, y, _ = compute(x, keep=False)
    np.testing.assert_array_equal(y, 2.0 * (x + 1.0))
    assert before == after
    before, after, y, kept = compute(x, keep=True)
    np.testing.assert_array_equal(y, 2.0 * (x + 1.0))
    np.testing.assert_array_equal(kept, x + 1.0)
    assert before != after


def test_a_mask_per_channel_runs_on_the_reference(ops, rng):
    x = tf.constant(rng.normal(size=(6, 3)))
    weights = tf.constant(rng.integers(0, 3, (6, 3)).astype(np.float64))
    count, _, _ = native.moments(x, axis=1, weights=weights)
    np.testing.assert_array_equal(count, tf.reduce_sum(weights, 0))
