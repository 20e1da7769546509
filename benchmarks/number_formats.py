"""Rounding to number formats: how fast, against a copy of the same bytes by two threads.

Every contender reads a tensor and writes one like it, as a concrete function with static shapes.

    python benchmarks/number_formats.py [--shapes 32x56x56x64,nchw:32x64x56x56] [--dtype bfloat16]
"""

import argparse
import concurrent.futures
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from contenders import Case
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms
from keras_norms.number_formats import FORMATS, block_floating_point, quantize
from keras_norms.ops.rounding import Rounding, rounded

# Of 32 MB and more, every result would be new memory of the system, whose page faults take several
# times as long as writing to it.
SHAPES = "32x56x56x64,4096x1024,nchw:32x64x56x56,nchw:16x256x32x32"
SMOKE_SHAPES = "4x6x6x64,nchw:4x64x6x6"
BLOCK_SIZES = (4, 16, 32)


def main():
    options = arguments()
    tf.get_logger().setLevel("ERROR")  # It warns of one function traced for every contender.
    header = environment()
    console = Console()
    console.print(headline(header))
    results = []
    for case in options.shapes:
        results.append((case, *benchmark(case, options)))
        console.print(table(*results[-1], options))
    console.print(
        f"Median of {options.repeats} interleaved calls. share of copy: the time of a copy of the "
        "same bytes by two threads over that of the contender, the median over rounds."
    )
    if options.json:
        record = {"environment": header, "dtype": options.dtype, "repeats": options.repeats}
        with open(options.json, "w") as file:
            json.dump({**record, "results": [as_json(*result) for result in results]}, file)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=SHAPES, help="as 32x56x56x64 or nchw:32x64x56x56")
    parser.add_argument("--dtype", default="float32", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--reference", action="store_true", help="also plain TensorFlow")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to see that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.shapes, options.repeats, options.reference = SMOKE_SHAPES, 3, True
    options.shapes = [Case.parse(shape) for shape in options.shapes.split(",")]
    return options


def benchmark(case, options):
    """Returns the bytes of a tensor, and a `Timing` by contender."""
    generator = np.random.default_rng(0)
    x = tf.cast(generator.normal(1.0, 2.0, case.shape), options.dtype)
    functions = contenders(case.axis % len(case.shape))
    calls = {name: compiled(function, x) for name, function in functions.items()}
    with keras_norms.implementation("reference"):
        plain = {name: compiled(function, x) for name, function in functions.items()}
    for name, call in plain.items():
        if not bool(tf.reduce_all(call() == calls[name]())):
            raise SystemExit(f"{name} differs from plain TensorFlow, {case}, {options.dtype}.")
    if options.reference:
        calls |= {f"{name}, plain TensorFlow": call for name, call in plain.items()}
    ends = {name: (lambda call=call: done(call())) for name, call in calls.items()}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ends["copy"] = copy(x.dtype.size * x.shape.num_elements(), pool)
        timings = interleaved(ends, options.repeats)
    return x.dtype.size * x.shape.num_elements(), timings


def contenders(axis):
    """Functions of x by name."""
    found = {
        "quantize, nearest": lambda x: quantize(x, "fp10_154"),
        "quantize, truncate": lambda x: quantize(x, "fp10_154", "truncate"),
        "quantize, stochastic": lambda x: quantize(x, "fp10_154", "stochastic", seed=1),
    }
    for size in BLOCK_SIZES:
        for alignment in ("largest", "second_largest"):
            found[f"blocks of {size}, {alignment}"] = blocks(size, axis, alignment)
    both = Rounding(FORMATS["fp10_154"], block_size=4, block_mantissa_bits=5)
    found["both steps, blocks of 4"] = lambda x: rounded(x, axis, both)
    return found


def blocks(size, axis, alignment):
    return lambda x: block_floating_point(x, 5, size, axis, alignment)


def compiled(function, x):
    """A call that leaves out what a `tf.function` spends in Python."""
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(x.shape, x.dtype))
    return lambda: concrete(x)


def done(y):
    """A small array that exists only when `y` does."""
    return tf.reshape(y, [-1])[:1]


def copy(size, pool):
    """Each half of the bytes is copied by a thread; numpy leaves the interpreter alone for it."""
    source, target = (np.ones(size, np.uint8) for _ in range(2))
    halves = [(target[part], source[part]) for part in (slice(size // 2), slice(size // 2, None))]

    def call():
        for half in [pool.submit(np.copyto, *half) for half in halves]:
            half.result()
        return target[-1:]

    return call


def table(case, size, timings, options):
    grid = Table(title=f"{case}, {options.dtype}, {size / 1e6:.3g} MB")
    grid.add_column("contender")
    for name in ("ms", "(quartiles)", "share of copy", "GB/s"):
        grid.add_column(name, justify="right")
    for name, timing in timings.items():
        share = f"{timings['copy'].over(timing):.2f}"
        grid.add_row(name, *timing.cells(), share, f"{bandwidth(size, timing):.1f}")
    return grid


def bandwidth(size, timing):
    """GB/s, read and written."""
    return 2 * size / timing.milliseconds[1] / 1e6


def as_json(case, size, timings):
    found = {
        name: {
            "milliseconds": timing.milliseconds,
            "share_of_copy": timings["copy"].over(timing),
            "gigabytes_per_second": bandwidth(size, timing),
        }
        for name, timing in timings.items()
    }
    return {"shape": case.shape, "axis": case.axis, "bytes": size, "contenders": found}


if __name__ == "__main__":
    main()
