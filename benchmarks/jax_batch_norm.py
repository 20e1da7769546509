"""Batch norm in JAX: ours against formulas in `jax.numpy`, forward and backward, and their errors.

Every contender is a jitted function of x, dy, gamma and beta that returns y and the gradients of x,
gamma and beta in training mode.

    python benchmarks/jax_batch_norm.py [--rounds 30] [--json FILE] [--smoke]
"""

import argparse
import json
import os
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms.jax

EPSILON = 1e-3
SHAPES = ((32, 56, 56, 64), (32, 14, 14, 256), (4096, 768))
SMALL_SHAPES = ((4, 7, 7, 8), (32, 16))
OFFSETS = (0.0, 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="default 30")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--smoke", action="store_true", help="small shapes and 2 rounds")
    options = parser.parse_args()
    rounds = 2 if options.smoke else options.rounds
    console, header = Console(), environment()
    console.print(f"{headline(header)} · JAX {jax.__version__}; float32; {rounds} rounds")
    console.print(keras_norms.jax.native_status().reason, markup=False)
    results = {}
    for shape in SMALL_SHAPES if options.smoke else SHAPES:
        name = "×".join(map(str, shape))
        results[name] = measured(shape, rounds)
    console.print(table_of_times(results), table_of_errors(results))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"environment": header, "results": record(results)}, file)


def measured(shape, rounds):
    """A `Timing` by contender, and errors by offset and contender."""
    errors = {}
    for offset in OFFSETS:
        inputs = made(shape, offset)
        expected = exact(*inputs)
        steps = contenders(inputs)
        errors[offset] = {
            name: [error(f, e) for f, e in zip(step(*inputs), expected, strict=True)]
            for name, step in steps.items()
        }
        if not offset:
            timings = interleaved(
                {name: read(step, inputs) for name, step in steps.items()}, rounds
            )
    assert max(errors[1e6]["ours"][:2]) < 1e-5, f"ours is wrong: {errors}"
    return timings, errors


def contenders(inputs):
    """A compiled step of each, by name."""
    steps = {
        "ours": stepped(lambda *a: keras_norms.jax.batch_norm(*a, training=True)[0]),
        "ours, plain": stepped(lambda *a: keras_norms.jax.batch_norm(*a, training=True)[0]),
        "jnp": stepped(formula(lambda x, mean: jnp.mean(jnp.square(x - mean), axes(x)))),
        "fast variance": stepped(
            formula(
                lambda x, mean: jnp.maximum(
                    jnp.mean(jnp.square(x), axes(x)) - jnp.square(mean), 0.0
                )
            )
        ),
    }
    compiled = {}
    for name, step in steps.items():
        # Which kernels run is chosen when a function is traced.
        switch = {"KERAS_NORMS_NATIVE": "0" if name == "ours, plain" else "1"}
        with mock.patch.dict(os.environ, switch):
            compiled[name] = jax.jit(step).lower(*inputs).compile()
    return compiled


def stepped(batch_norm):
    def step(x, dy, gamma, beta):
        y, pull = jax.vjp(batch_norm, x, gamma, beta)
        return y, *pull(dy)

    return step


def formula(variance_of):
    """Batch norm by a formula for the variance, which JAX differentiates."""

    def batch_norm(x, gamma, beta):
        mean = jnp.mean(x, axes(x))
        inverse_stddev = jax.lax.rsqrt(variance_of(x, mean) + EPSILON)
        return (x - mean) * (inverse_stddev * gamma) + beta

    return batch_norm


def axes(x):
    return tuple(range(x.ndim - 1))


def made(shape, offset):
    """x, dy, gamma and beta."""
    generator = np.random.default_rng(0)
    x, dy = (generator.normal(mean, 1.0, shape) for mean in (offset, 0.0))
    gamma, beta = generator.normal(1.0, 0.1, (2, shape[-1]))
    return [jnp.asarray(value, jnp.float32) for value in (x, dy, gamma, beta)]


def exact(x, dy, gamma, beta):
    """y and the gradients of x, gamma and beta in NumPy and float64."""
    x, dy, gamma, beta = (np.asarray(value, np.float64) for value in (x, dy, gamma, beta))
    centred = x - x.mean(axes(x))
    inverse = 1.0 / np.sqrt(np.mean(np.square(centred), axes(x)) + EPSILON)
    normalized = centred * inverse
    dgamma, dbeta = np.sum(dy * normalized, axes(x)), np.sum(dy, axes(x))
    count = x.size // x.shape[-1]
    dx = gamma * inverse * (dy - (dbeta + normalized * dgamma) / count)
    return gamma * normalized + beta, dx, dgamma, dbeta


def error(found, expected):
    """The largest error, in standard deviations of what is expected."""
    return float(np.max(np.abs(np.asarray(found, np.float64) - expected)) / np.std(expected))


def read(step, inputs):
    """A call that ends when all the work is done."""

    def call():
        jax.block_until_ready(results := step(*inputs))
        return np.asarray(results[-1])

    return call


def table_of_times(results):
    names = list(next(iter(results.values()))[0])
    table = Table("shape", "ours ms", "(quartiles)", *names[1:], title="time over that of ours")
    for shape, (timings, _) in results.items():
        ours = timings["ours"]
        ratios = [f"{timings[name].over(ours):.2f}" for name in names[1:]]
        table.add_row(shape, *ours.cells(), *ratios)
    return table


def table_of_errors(results):
    names = list(next(iter(results.values()))[0])
    table = Table("shape", "mean", "of", *names, title="largest errors")
    for shape, (_, errors) in results.items():
        for offset, found in errors.items():
            for i, result in enumerate(("y", "dx")):
                cells = [f"{found[name][i]:.1e}" for name in names]
                table.add_row(shape, f"{offset:.0e}" if offset else "0", result, *cells)
    return table


def record(results):
    return [
        {
            "shape": shape,
            "milliseconds": {name: timing.milliseconds for name, timing in timings.items()},
            "errors": {str(offset): found for offset, found in errors.items()},
        }
        for shape, (timings, errors) in results.items()
    ]


if __name__ == "__main__":
    main()
