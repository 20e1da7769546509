"""The compiled kernels in JAX: the same FFI handlers, registered through `jax.ffi`.

A batch norm made of them, forward and backward, against NumPy in float64; wrong buffers are errors.
"""

import concurrent.futures
import ctypes
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest

from tests import oracles

pytestmark = pytest.mark.main_leg
jnp = jax.numpy
EPSILON = 1e-3
SOURCES = pathlib.Path(__file__).parents[2] / "custom_ops"


@pytest.fixture(scope="module", autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def handlers(tmp_path_factory):
    """Builds the host handlers, without TensorFlow and for one level, and registers them."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "These tests need a C++ compiler, g++ or c++."
    folder = tmp_path_factory.mktemp("jax")
    flags = ["-std=c++17", "-O0", "-fPIC", f"-I{SOURCES}", f"-I{SOURCES / 'kernels'}"]
    commands = [["xla_ffi/handlers_host.cc", f"-isystem{jax.ffi.include_dir()}"]]
    commands += [["kernels/cpu/dispatch.cc"], ["kernels/cpu/add_at.cc"]]
    commands += [["kernels/cpu/helpers.cc"], ["kernels/cpu/normalize.cc"]]
    for name in ("moments", "extremes", "sums", "blend", "round"):
        commands += [[f"kernels/cpu/{name}_cpu.cc", "-DKERAS_NORMS_LEVEL=baseline"]]

    def compiled(numbered):
        number, (source, *options) = numbered
        made = folder / f"{number}.o"
        subprocess.run([compiler, *flags, *options, "-c", SOURCES / source, "-o", made], check=True)
        if source.endswith("dispatch.cc"):  # It names all levels; where weak, they may be missing.
            others = [f"--weaken-symbol=*keras_norms2{level}*" for level in ("v3", "v4")]
            subprocess.run(["objcopy", "--wildcard", *others, made], check=True)
        return made

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, enumerate(commands)))
    subprocess.run([compiler, "-shared", *objects, "-o", folder / "handlers.so"], check=True)
    library = ctypes.CDLL(str(folder / "handlers.so"))
    for name in ("moments", "extremes", "add_at", "sums", "blend", "round"):
        symbol = f"KerasNorms{name.title().replace('_', '')}Host"
        capsule = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(f"keras_norms_{name}", capsule, platform="cpu")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KERAS_NORMS_CPU", "baseline")
        yield


def call(target, results, axis, segment_size=0, weighted=False, chunks=1, **operands):
    """Calls a kernel with the operands that are not None; results are shapes and dtypes."""
    operands = {name: value for name, value in operands.items() if value is not None}
    attributes = dict(
        operands=" ".join(operands), axis=np.int64(axis), segment_size=np.int64(segment_size)
    )
    if target == "keras_norms_extremes":
        attributes["chunks"] = np.int64(chunks)
    elif target != "keras_norms_moments":
        attributes["weighted"] = weighted
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    return jax.ffi.ffi_call(target, results)(*operands.values(), **attributes)


def batch_norm(x, dy, gamma, beta, weights, axis):
    """y, and the gradients of sum(y * dy): dx, dgamma, dbeta."""
    vector = ((x.shape[axis],), jnp.float64)
    options = dict(axis=axis, weights=weights)
    count, mean, m2 = call(
        "keras_norms_moments", [((1,), jnp.float64), vector, vector], x=x, **options
    )
    inverse = 1.0 / jnp.sqrt(m2 / count + EPSILON)
    options["center"] = mean
    whole = [(x.shape, x.dtype)]
    (y,) = call("keras_norms_blend", whole, v=x, b=gamma * inverse, c=beta, **in_order(options))
    sum_dy, sum_dy_x = call("keras_norms_sums", [vector, vector], u=dy, v=x, **in_order(options))
    (dx,) = call(
        "keras_norms_blend",
        whole,
        u=dy,
        v=x,
        a=gamma * inverse,
        b=-gamma * inverse**3 * sum_dy_x / count,
        c=-gamma * inverse * sum_dy / count,
        weighted=weights is not None,
        **in_order(options),
    )
    return y, dx, inverse * sum_dy_x, sum_dy


def in_order(options):
    return {name: options[name] for name in ("axis", "center", "weights")}


@pytest.mark.parametrize("has_weights", [False, True], ids=["plain", "weights"])
@pytest.mark.parametrize(
    "shape, axis, dtype",
    [
        *(((6, 5, 4, 7), 3, dtype) for dtype in ("float32", "float64", "float16", "bfloat16")),
        ((6, 3, 5, 4), 1, "float32"),
        ((33, 65), 1, "float32"),
    ],
    ids=str,
)
def test_batch_norm(handlers, rng, shape, axis, dtype, has_weights):
    x, dy = (jnp.asarray(rng.normal(mean, 1.0, shape), dtype) for mean in (3.0, 0.0))
    gamma, beta = rng.normal(size=(2, shape[axis]))
    weights = None
    if has_weights:
        weights = rng.integers(0, 2, [1 if i == axis else n for i, n in enumerate(shape)])
        x = jnp.where(weights == 0, jnp.asarray(np.nan, dtype), x)
        weights = jnp.asarray(weights, "float64" if dtype == "float64" else "float32")
    found = jax.jit(batch_norm, static_argnames="axis")(x, dy, gamma, beta, weights, axis=axis)

    exact, exact_dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    wide = [n if i == axis else 1 for i, n in enumerate(shape)]
    scale, shift = gamma.reshape(wide), beta.reshape(wide)
    y, _ = oracles.batch_norm(exact, scale, shift, EPSILON, axis, weights)
    expected = oracles.batch_norm_gradients(exact, exact_dy, scale, EPSILON, axis, weights)
    vectors = [np.ravel(gradient) for gradient in expected[1:]]
    for actual, wanted in zip(found, [y, expected[0], *vectors], strict=True):
        precision = "float32" if dtype != "float64" and wanted.ndim == 1 else dtype
        oracles.assert_close(np.asarray(actual, np.float64), wanted, precision, 120, 4.0)


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
