"""The FFI handlers against `jax.jit` batch norm on a GPU: which path is faster under XLA?

    python benchmarks/gpu_jax.py [--smoke] [--json FILE]

One compiled function of x, dy, residual, gamma and beta returns y and all gradients: of batch norm
alone, with ReLU, and with a residual and ReLU. Ours calls the handlers of custom_ops/xla_ffi: one
operation each way, and for batch norm alone the four kernels as well. The other is `jax.vjp` of a
batch norm with float32 statistics in one pass (mean of squares), the quickest that XLA's own fusion
can be given.
gpu.py runs this where JAX is installed. With `--library` it takes handlers that are built already;
where JAX has no GPU, those of the CPU.
"""

import argparse
import ctypes
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ROOT / "custom_ops"
EPSILON = 1e-5
SHAPES = [
    (64, 64, 112, 112),
    (64, 256, 56, 56),
    (64, 128, 28, 28),
    (64, 1024, 14, 14),
    (64, 2048, 7, 7),
    (2, 256, 200, 336),
    (256, 256, 64, 64),
]
SMOKE_SHAPES = [(4, 8, 6, 6), (8, 128, 28, 28)]
DTYPES = ("float32", "float16", "bfloat16")
# Units in the last place that a result may be off, relative to the largest of its values.
TOLERANCE = 64
LAYERS = ("BN", "BN+ReLU", "BN+add+ReLU")
RESULTS = ("y", "dx", "dgamma", "dbeta", "dresidual")  # The last one with a residual only.


def build(folder):
    """Builds the handlers for CUDA; returns the file."""
    include = [f"-I{SOURCES}", f"-I{SOURCES / 'kernels'}", f"-I{jax.ffi.include_dir()}"]
    units = [*SOURCES.glob("kernels/cuda/*.cu"), SOURCES / "xla_ffi" / "handlers_cuda.cc"]
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ("80", "90")]
    code.append("-gencode=arch=compute_90,code=compute_90")
    flags = ["-std=c++17", "-O3", "-shared", "-Xcompiler=-fPIC", "--threads=4", *code, *include]
    library = pathlib.Path(folder, "handlers.so")
    subprocess.run(["nvcc", *flags, *units, "-o", library], check=True)
    return library


def register(library):
    on_gpu = jax.default_backend() == "gpu"
    handlers = ctypes.CDLL(str(library))
    for name in ("moments", "sums", "blend", "normalize", "normalize_grad"):
        symbol = name.title().replace("_", "")
        handler = getattr(handlers, f"KerasNorms{symbol}{'Cuda' if on_gpu else 'Host'}")
        platform = "CUDA" if on_gpu else "cpu"
        capsule = jax.ffi.pycapsule(handler)
        jax.ffi.register_ffi_target(f"keras_norms_{name}", capsule, platform=platform)


def call(name, results, axis, operands, **attributes):
    attributes |= dict(operands=" ".join(operands), axis=np.int64(axis), segment_size=np.int64(0))
    return jax.ffi.ffi_call(f"keras_norms_{name}", results)(*operands.values(), **attributes)


def operation(x, dy, residual, gamma, beta, axis, layer):
    """One operation each way."""
    vector = jax.ShapeDtypeStruct((x.shape[axis],), jnp.float64)
    one, whole = jax.ShapeDtypeStruct((1,), jnp.float64), jax.ShapeDtypeStruct(x.shape, x.dtype)
    given = dict(x=x, residual=residual, gamma=gamma, beta=beta)
    keeps_y, rectified = "add" in layer, layer != "BN"
    if not keeps_y:
        del given["residual"]
    options = dict(epsilon=np.float64(EPSILON), rectified=rectified)
    results = [whole, one, vector, vector]
    y, count, mean, variance = call("normalize", results, axis, given, **options)
    given = dict(dy=dy, x=x, y=y, gamma=gamma, beta=beta, count=count, mean=mean, variance=variance)
    for name, is_needed in (("y", keeps_y), ("beta", rectified and not keeps_y)):
        if not is_needed:
            del given[name]
    results = [whole] * (1 + keeps_y) + [jax.ShapeDtypeStruct(gamma.shape, gamma.dtype)] * 2
    dx, *dresidual, dgamma, dbeta = call("normalize_grad", results, axis, given, **options)
    return y, dx, dgamma, dbeta, *dresidual


def kernels(x, dy, residual, gamma, beta, axis, layer):
    """The four kernels of batch norm alone, and what is between them in XLA."""
    vector = jax.ShapeDtypeStruct((x.shape[axis],), jnp.float64)
    one, whole = jax.ShapeDtypeStruct((1,), jnp.float64), jax.ShapeDtypeStruct(x.shape, x.dtype)
    count, mean, m2 = call("moments", [one, vector, vector], axis, dict(x=x))
    inverse = jax.lax.rsqrt(m2 / count + EPSILON)
    scale = gamma * inverse
    given = dict(v=x, b=scale, c=beta.astype(jnp.float64), center=mean)
    (y,) = call("blend", [whole], axis, given, weighted=False)
    given = dict(u=dy, v=x, center=mean)
    sum_dy, sum_dy_x = call("sums", [vector, vector], axis, given, weighted=False)
    b, c = -scale * inverse**2 * sum_dy_x / count, -scale * sum_dy / count
    given = dict(u=dy, v=x, a=scale, b=b, c=c, center=mean)
    (dx,) = call("blend", [whole], axis, given, weighted=False)
    dgamma = inverse * sum_dy_x
    return y, dx, dgamma.astype(gamma.dtype), sum_dy.astype(beta.dtype)


def batch_norm(x, gamma, beta, axis):
    """In float32, which XLA keeps in registers."""
    axes = [a for a in range(x.ndim) if a != axis]
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axes, keepdims=True)
    variance = jnp.mean(jnp.square(wide), axes, keepdims=True) - jnp.square(mean)
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    scale = jax.lax.rsqrt(variance + EPSILON) * gamma.reshape(shape)
    return (wide - mean) * scale + beta.reshape(shape)


def theirs(x, dy, residual, gamma, beta, axis, layer):
    def function(x, gamma, beta, *residual):
        y = batch_norm(x, gamma, beta, axis)
        y = y + residual[0] if residual else y
        return (y if layer == "BN" else jax.nn.relu(y)).astype(x.dtype)

    y, pullback = jax.vjp(function, x, gamma, beta, *([residual] if "add" in layer else []))
    return y, *pullback(dy)


def inputs(shape, dtype, channels, seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    x, dy, residual = (jax.random.normal(key, shape, jnp.float32).astype(dtype) for key in keys)
    gamma, beta = np.linspace((0.5, -1.0), (1.5, 1.0), channels, dtype=np.float32).T
    return x, dy, residual, jnp.asarray(gamma), jnp.asarray(beta)


def compare(name, found, expected, dtype, rectified):
    """NaN never passes. Few values near 0 may pass a ReLU in one and not in the other: there the
    mean of what results are off by counts, and not the largest."""
    over = np.mean if rectified else np.max
    for what, a, b in zip(RESULTS, found, expected, strict=False):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        epsilon = float(jnp.finfo(dtype if a.ndim > 1 else "float32").eps)
        tolerance = (TOLERANCE * epsilon + (1e-4 if rectified else 0.0)) * over(np.abs(b))
        difference = over(np.abs(a - b))
        if not difference <= tolerance:
            sys.exit(f"FAILED: {what} of {name}: off by {difference}, not {tolerance}")


def seconds(function, sets, repeats):
    """Of one call; the calls are queued one after the other, on different buffers in turn."""
    result = None
    jax.block_until_ready(function(*sets[0]))
    start = time.perf_counter()
    for i in range(repeats):
        result = function(*sets[i % len(sets)])
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few shapes and rounds")
    parser.add_argument("--json", type=pathlib.Path, help="also write the numbers there")
    parser.add_argument("--library", type=pathlib.Path, help="handlers that are built already")
    options = parser.parse_args()
    if options.library is None and jax.default_backend() != "gpu":
        sys.exit(f"JAX sees no GPU. Received: jax.default_backend()={jax.default_backend()!r}.")
    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as folder:
        register(options.library or build(folder))
        results = run(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def run(options):
    shapes, rounds = (SMOKE_SHAPES, 3) if options.smoke else (SHAPES, 15)
    print(f"\nXLA, forward and gradients, JAX {jax.__version__}: milliseconds of a call")
    print(
        f"{'shape':>22} {'layout':>6} {'dtype':>9} {'layer':>11} {'kernels':>9} {'operation':>9} "
        f"{'jax.jit':>9} {'ratio':>6}"
    )
    results = []
    for dtype in DTYPES:
        for layout in ("NHWC", "NCHW"):
            for shape in shapes:
                for layer in LAYERS:
                    results.append(measure(shape, layout, dtype, layer, rounds))
    return results


def measure(shape, layout, dtype, layer, rounds):
    batch, channels, height, width = shape
    axis = 3 if layout == "NHWC" else 1
    sizes = (batch, height, width, channels) if layout == "NHWC" else shape
    size = np.prod(sizes) * jnp.dtype(dtype).itemsize
    # Together larger than the L2 cache.
    count = max(1, min(16, int(4e8 // (2 * size))))
    sets = [inputs(sizes, dtype, channels, seed) for seed in range(count)]
    contenders = (operation, theirs, *([kernels] if layer == "BN" else []))
    jitted = {f.__name__: jax.jit(f, static_argnums=(5, 6)) for f in contenders}
    bound = {n: lambda *given, f=f: f(*given, axis, layer) for n, f in jitted.items()}
    expected = bound["theirs"](*sets[0])
    for name, function in bound.items():
        what = f"{name}, {dtype} {layout} {shape} {layer}"
        compare(what, function(*sets[0]), expected, dtype, layer != "BN")
    del expected
    times = {name: [] for name in bound}
    repeats = max(5, min(50, int(2e10 // (8 * size))))
    for _ in range(rounds):
        for name, function in bound.items():
            times[name].append(seconds(function, sets, repeats))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["theirs"] / medians["operation"]
    cells = [
        f"{1e3 * medians[n]:.3f}" if n in medians else ""
        for n in ("kernels", "operation", "theirs")
    ]
    print(
        f"{'x'.join(map(str, shape)):>22} {layout:>6} {dtype:>9} {layer:>11} "
        f"{' '.join(f'{cell:>9}' for cell in cells)} {ratio:>6.2f}",
        flush=True,
    )
    return {
        "jax": True,
        "shape": shape,
        "layout": layout,
        "dtype": dtype,
        "layer": layer,
        "seconds": medians,
    }


if __name__ == "__main__":
    main()
