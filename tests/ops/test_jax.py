"""The compiled kernels in JAX as TensorFlow's XLA calls them, with float64 vectors.

What `keras_norms.jax` computes with them is in tests/jax; here are the others, and that wrong
buffers are errors.
"""

import ctypes
import os

import jax
import numpy as np
import pytest

from keras_norms.jax import library

pytestmark = pytest.mark.main_leg
jnp = jax.numpy


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def handlers():
    """Registers the handlers of the library for JAX that are not its own."""
    status = library.native_status()
    if not status.available:
        required = os.environ.get("KERAS_NORMS_TEST_NATIVE") == "require"
        (pytest.fail if required else pytest.skip)(status.reason)
    places = library.places().package(), library.places().cache()
    folder = next(place for place in places if place.is_dir())
    loaded = ctypes.CDLL(str(next(folder.glob("_native-*.so"))))
    for name in ("moments", "extremes", "add_at", "sums", "blend"):
        symbol = f"KerasNorms{name.title().replace('_', '')}Host"
        capsule = jax.ffi.pycapsule(getattr(loaded, symbol))
        jax.ffi.register_ffi_target(f"keras_norms_{name}", capsule, platform="cpu")


def call(target, results, axis, segment_size=0, weighted=False, chunks=1, **operands):
    """Calls a kernel with the operands that are not None; results are shapes and dtypes."""
    operands = {name: value for name, value in operands.items() if value is not None}
    attributes = dict(
        operands=" ".join(operands), axis=np.int64(axis), segment_size=np.int64(segment_size)
    )
    if target == "keras_norms_extremes":
        attributes["chunks"] = np.int64(chunks)
    elif "moments" not in target:
        attributes["weighted"] = weighted
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    return jax.ffi.ffi_call(target, results)(*operands.values(), **attributes)


def test_segments(handlers, rng):
    x = jnp.asarray(rng.normal(size=(5, 4, 3)))
    shapes = [((n, 1 if i == 0 else 3), x.dtype) for i, n in enumerate([3, 3, 3])]
    count, mean, _ = call("keras_norms_moments", shapes, axis=2, segment_size=2, x=x)
    np.testing.assert_array_equal(count, [[8], [8], [4]])
    expected = [np.mean(x[i : i + 2], (0, 1)) for i in (0, 2, 4)]
    np.testing.assert_allclose(mean, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_extremes(handlers, rng, dtype):
    x = jnp.asarray(rng.normal(size=(6, 3, 4)), dtype)
    results = [((2, 1), jnp.float64)] + [((2, 3), jnp.float64)] * 3 + [((2, 3), jnp.int64)] * 2
    found = call("keras_norms_extremes", results, axis=1, chunks=2, x=x)
    runs = np.asarray(x, np.float64).reshape(2, 3, 3, 4).transpose(0, 2, 1, 3).reshape(2, 3, 12)
    np.testing.assert_array_equal(found[0], [[12], [12]])
    np.testing.assert_allclose(found[1], runs.mean(-1), rtol=1e-6, atol=1e-6)
    flat = np.asarray(x, np.float64).ravel()
    for value, place, exact in ((2, 4, runs.min(-1)), (3, 5, runs.max(-1))):
        np.testing.assert_array_equal(found[value], exact)
        np.testing.assert_array_equal(flat[found[place]], exact)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_add_at(handlers, dtype):
    x = jnp.arange(12).reshape(4, 3).astype(dtype)
    values, high_at, low_at = jnp.array([0.5, 2.0]), jnp.array([0, 7]), jnp.array([11, 3])
    y = jax.ffi.ffi_call("keras_norms_add_at", x)(x, values, high_at, low_at)
    expected = np.arange(12.0)
    expected[[0, 7, 11, 3]] += [0.5, 2.0, -0.5, -2.0]
    np.testing.assert_array_equal(np.asarray(y, np.float64).ravel(), expected)


@pytest.mark.parametrize(
    "values, places",
    [(np.ones(2), np.zeros(3, int)), (np.ones(2, np.float32), np.zeros(2, int))],
    ids=["places", "dtype"],
)
def test_add_at_rejects_wrong_buffers(handlers, values, places):
    with pytest.raises(Exception, match="values must be float64, places int64 and as many"):
        jax.block_until_ready(jax.ffi.ffi_call("keras_norms_add_at", X)(X, values, places, places))


def test_extremes_reject_missing_results(handlers):
    with pytest.raises(Exception, match="KerasNorms>Extremes: result 1 must have 6 values"):
        results = [((2, 1), jnp.float64)]
        jax.block_until_ready(call("keras_norms_extremes", results, axis=1, chunks=2, x=X))


X = jnp.zeros((4, 3), jnp.float32)
Y = [((4, 3), jnp.float32)]
VECTOR = ((3,), jnp.float64)
WRONG = {
    "vector": (Y, dict(v=X, b=np.ones(4)), r"a vector must be \[channels\]"),
    "vector_dtype": (Y, dict(v=X, b=np.ones(3, int)), "vectors must be float32 or float64"),
    "shape": (Y, dict(u=X, v=X[:2], a=np.ones(3), b=np.ones(3)), "must have the same shape"),
    "dtype": (Y, dict(v=np.ones((4, 3), int), b=np.ones(3)), "activations must be float16"),
    "dtypes": (
        Y,
        dict(u=X, v=X.astype("float16"), a=np.ones(3), b=np.ones(3)),
        "activations must have the same dtype",
    ),
    "weights": (
        Y,
        dict(v=X, b=np.ones(3), weights=np.ones((4, 1))),
        "weights must be float32, and float64 for",
    ),
    "lonely": (Y, dict(v=X), "v and b must be given together"),
    "order": (Y, dict(b=np.ones(3), v=X), "`operands` must name the operands that are passed"),
    "unknown": (Y, dict(v=X, b=np.ones(3), d=X), "`operands` must name the operands"),
    "axis": (Y, dict(v=X, b=np.ones(3), axis=-1), "`axis` must lie in it"),
    "result": ([((4, 4), jnp.float32)], dict(v=X, b=np.ones(3)), "result 0 must have 12 values"),
    "result_dtype": ([((4, 3), jnp.float64)], dict(v=X, b=np.ones(3)), "result 0 must have"),
}


@pytest.mark.parametrize("case", WRONG)
def test_rejects_wrong_buffers(handlers, case):
    results, operands, sentence = WRONG[case]
    with pytest.raises(Exception, match=sentence):
        jax.block_until_ready(call("keras_norms_blend", results, **{"axis": 1, **operands}))


def test_rejects_missing_results(handlers):
    with pytest.raises(Exception, match="result 1 must have 3 values of float64"):
        jax.block_until_ready(call("keras_norms_sums", [VECTOR], axis=1, u=X, v=X))


PAIRS = {
    "center": (dict(u=X, v=X, center=np.ones(3)), "a center must be .2, channels. or .2, segments"),
    "segments": (dict(u=X, v=X, center=np.ones((2, 2, 3))), "a vector must be"),
    "result": (dict(u=X, v=X, center=np.ones((2, 3))), "result 0 must have 3 values of the act"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_kernels_with_pairs_reject_wrong_buffers(handlers, case):
    operands, sentence = PAIRS[case]
    with pytest.raises(Exception, match=sentence):
        found = call("keras_norms_sums_pairs", [VECTOR, VECTOR], axis=1, **operands)
        jax.block_until_ready(found)
