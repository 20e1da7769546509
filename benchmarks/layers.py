"""One layer, forward and backward: keras_norms against stock Keras, TensorFlow and PyTorch.

Every contender is a step of x and dy with static shapes that returns y and the gradients of
x, gamma and beta in training mode; see `contenders.py`.

    python benchmarks/layers.py [--shapes 32x56x56x64,nchw:32x64x56x56] [--dtype bfloat16] [--jit]
"""

import argparse
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from contenders import EPSILON, Case, Parameters, copy_step, fused_step, keras_steps, torch_step
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

SHAPES = (
    "32x112x112x64,32x56x56x64,32x56x56x256,32x28x28x128,32x14x14x256,8x7x7x2048,4096x768,"
    "nchw:32x64x56x56,nchw:32x256x14x14,32x64"
)
SMOKE_SHAPES = "4x6x6x8,nchw:4x8x6x6,16x24"
UNIT_ROUNDOFF = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}

# Activation-sized reads and writes that a step needs at least: forward 2 + 1, backward 4 + 1.
TRANSFERS = 8


def main():
    options = arguments(__doc__)
    tf.get_logger().setLevel("ERROR")  # It warns of one function traced for every contender.
    header = environment()
    console = Console()
    console.print(headline(header))
    results = []
    for case in options.shapes:
        results.append(benchmark(case, options))
        console.print(table(results[-1:], options))
    console.print(
        f"Median of {options.repeats} interleaved calls; time / ours is the median over rounds, "
        "above 1 where keras_norms is faster, jit against ours jit. "
        f"GB/s counts {TRANSFERS} activation transfers: forward 2 reads + 1 write, "
        f"backward 4 reads + 1 write. bound: {TRANSFERS // 2} copies by two threads."
    )
    if options.json:
        record = {"environment": header, "dtype": options.dtype, "repeats": options.repeats}
        with open(options.json, "w") as file:
            json.dump({**record, "results": [as_json(*result) for result in results]}, file)


def arguments(description):
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--shapes", default=SHAPES, help="as 32x56x56x64 or nchw:32x64x56x56")
    parser.add_argument("--dtype", default="float32", choices=UNIT_ROUNDOFF)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--jit", action="store_true", help="also with jit_compile=True")
    parser.add_argument("--cold", action="store_true", help="with caches that others have filled")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to see that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.shapes, options.repeats = SMOKE_SHAPES, 3
    options.shapes = [Case.parse(shape) for shape in options.shapes.split(",")]
    return options


def benchmark(case, options):
    """Returns the case, the bytes of an activation, and a `Timing` by contender."""
    generator = np.random.default_rng(0)
    dtype = tf.as_dtype(options.dtype)
    x = tf.cast(generator.normal(1.0, 2.0, case.shape), dtype)
    dy = tf.cast(generator.normal(0.0, 1.0, case.shape), dtype)
    parameters = Parameters.random(case.shape[case.axis])
    size = dtype.size * x.shape.num_elements()
    steps = keras_steps(case, dtype, parameters, options.jit)
    steps["fused"] = fused_step(case, dtype, parameters)
    steps["torch"] = torch_step(case, dtype, parameters)
    with copy_step(size) as steps["copy"]:
        steps = {name: step for name, step in steps.items() if step is not None}
        expected = oracle(x, dy, case.axis, *parameters)
        for name, step in steps.items():
            if name.startswith(("ours", "torch")):
                values = getattr(step, "values", step)(x, dy)
                # Ours has to be right; of PyTorch only that it computes the same.
                tolerance = 32 * UNIT_ROUNDOFF[options.dtype] if name != "torch" else 2**-6
                check(f"{name}, {case}, {options.dtype}", values, expected, tolerance)
        del expected
        calls = {name: lambda step=step: step(x, dy)["done"] for name, step in steps.items()}
        timings = interleaved(calls, options.repeats, lead_in=0 if options.cold else 1)
    if "copy" in timings:
        copy = timings.pop("copy")
        timings["bound"] = copy._replace(seconds=copy.seconds * TRANSFERS / 2)
    return case, size, timings


def check(what, values, expected, tolerance):
    """Leaves with an error if a step differs from float64 by more, relative to the largest value.

    Sums in float32 lose more than the last rounding; 32 roundoffs leave room for that.
    """
    for name, exact in expected.items():
        error = np.max(np.abs(np.array(values[name]).astype(float) - exact))
        limit = tolerance * np.max(np.abs(exact))
        if not error <= limit:
            sys.exit(f"Wrong {name} of {what}: off by {error:.3g}, allowed {limit:.3g}.")


def oracle(x, dy, axis, gamma, beta):
    """y, dx, dgamma and dbeta in float64."""
    x, dy = (np.moveaxis(tensor.numpy().astype(float), axis, -1) for tensor in (x, dy))
    axes = tuple(range(x.ndim - 1))
    inverse_stddev = 1.0 / np.sqrt(x.var(axes) + EPSILON)
    xhat = (x - x.mean(axes)) * inverse_stddev
    mean_dy, mean_dy_xhat = dy.mean(axes), (dy * xhat).mean(axes)
    count = x.size / x.shape[-1]
    dx = gamma * inverse_stddev * (dy - mean_dy - xhat * mean_dy_xhat)
    return {
        "y": np.moveaxis(gamma * xhat + beta, -1, axis),
        "dx": np.moveaxis(dx, -1, axis),
        "dgamma": count * mean_dy_xhat,
        "dbeta": count * mean_dy,
    }


def table(results, options):
    grid = Table(title=f"forward + backward, {options.dtype}")
    grid.add_column("shape")
    grid.add_column("contender")
    for name in ("ms", "(quartiles)", "time / ours", "GB/s"):
        grid.add_column(name, justify="right")
    for case, size, timings in results:
        label = str(case)
        for name, timing in timings.items():
            ratio = f"{over_ours(name, timings):.2f}"
            grid.add_row(label, name, *timing.cells(), ratio, f"{bandwidth(size, timing):.1f}")
            label = ""
        grid.add_section()
    return grid


def over_ours(name, timings):
    """How many times as long as ours, with XLA where the contender has it."""
    return timings[name].over(timings["ours jit" if name.endswith(" jit") else "ours"])


def bandwidth(size, timing):
    """GB/s of the counted traffic."""
    return TRANSFERS * size / timing.milliseconds[1] / 1e6


def as_json(case, size, timings):
    contenders = {
        name: {
            "milliseconds": timing.milliseconds,
            "over_ours": over_ours(name, timings),
            "gigabytes_per_second": bandwidth(size, timing),
        }
        for name, timing in timings.items()
    }
    return {"shape": case.shape, "axis": case.axis, "contenders": contenders}


if __name__ == "__main__":
    main()
