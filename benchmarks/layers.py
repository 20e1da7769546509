"""One layer, forward and backward: keras_norms against stock Keras and TensorFlow's fused op.

Every contender is one `tf.function` of x and dy with static shapes that returns y and
the gradients of x, gamma and beta in training mode. The layers also update their moving
statistics; `fused_batch_norm` has none.

    python benchmarks/layers.py [--shapes 32x56x56x64,4096x768] [--dtype bfloat16] [--jit]
"""

import argparse
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms
from keras_norms.layers.keras_api import keras

SHAPES = "32x56x56x64,32x112x112x64,32x14x14x256,4096x768"
SMOKE_SHAPES = "4x6x6x8,16x24"
UNIT_ROUNDOFF = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}
EPSILON = 1e-3

# Activation-sized reads and writes that a step needs at least: forward 2 + 1, backward 4 + 1.
TRANSFERS = 8


def main():
    options = arguments()
    tf.get_logger().setLevel("ERROR")  # It warns of one function traced for every contender.
    results = [benchmark(shape, options) for shape in options.shapes]
    header = environment()
    console = Console()
    console.print(headline(header))
    console.print(table(results, options))
    console.print(
        f"Median of {options.repeats} interleaved calls; time / ours is the median over rounds, "
        f"above 1 where keras_norms is faster. GB/s counts {TRANSFERS} activation transfers: "
        "forward 2 reads + 1 write, backward 4 reads + 1 write."
    )
    if options.json:
        record = {"environment": header, "dtype": options.dtype, "repeats": options.repeats}
        with open(options.json, "w") as file:
            json.dump({**record, "results": [as_json(*result) for result in results]}, file)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=SHAPES, help="as 32x56x56x64, separated by commas")
    parser.add_argument("--dtype", default="float32", choices=UNIT_ROUNDOFF)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--jit", action="store_true", help="also with jit_compile=True")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to see that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.shapes, options.repeats = SMOKE_SHAPES, 3
    options.shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
    return options


def benchmark(shape, options):
    """Returns the shape, the bytes of an activation, and a `Timing` by contender."""
    generator = np.random.default_rng(0)
    dtype = tf.as_dtype(options.dtype)
    x = tf.cast(generator.normal(1.0, 2.0, shape), dtype)
    dy = tf.cast(generator.normal(0.0, 1.0, shape), dtype)
    steps = contenders(shape, dtype, options.jit)
    for name, step in steps.items():
        if name.startswith("ours"):
            check(f"{name}, shape {shape}, {options.dtype}", step, x, dy)
    calls = {name: lambda step=step: step(x, dy)["done"] for name, step in steps.items()}
    timings = interleaved(calls, options.repeats)
    return shape, dtype.size * x.shape.num_elements(), timings


def contenders(shape, dtype, jit):
    """A dict of step functions."""
    policy = f"mixed_{dtype.name}" if dtype.size < 4 else dtype.name
    # Parameters that are not 0 and 1, so that the check sees them.
    parameters = dict(
        gamma_initializer=keras.initializers.RandomUniform(0.5, 1.5, seed=0),
        beta_initializer=keras.initializers.RandomNormal(seed=1),
        epsilon=EPSILON,
        dtype=policy,
    )
    layers = {
        "ours": keras_norms.BatchNormalization(**parameters),
        "stock": keras.layers.BatchNormalization(**parameters),
    }
    steps = {}
    for name, layer in layers.items():
        layer.build(shape)
        steps[name] = step_function(layer, [layer.gamma, layer.beta], shape, dtype)
        if jit:
            steps[f"{name} jit"] = step_function(
                layer, [layer.gamma, layer.beta], shape, dtype, jit_compile=True
            )
    if dtype != tf.float64:  # The fused op does not take it.
        gamma, beta = (tf.Variable(tf.convert_to_tensor(v)) for v in layers["ours"].weights[:2])

        def fused(x, training):
            # It also wants rank 4.
            y, *_ = tf.compat.v1.nn.fused_batch_norm(
                x if len(shape) == 4 else tf.reshape(x, [shape[0], 1, -1, shape[-1]]),
                gamma,
                beta,
                epsilon=EPSILON,
                is_training=training,
            )
            return tf.reshape(y, shape)

        steps["fused"] = step_function(fused, [gamma, beta], shape, dtype)
    return steps


def step_function(normalize, parameters, shape, dtype, jit_compile=False):
    spec = tf.TensorSpec(shape, dtype)

    @tf.function(input_signature=[spec, spec], jit_compile=jit_compile)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = normalize(x, training=True)
        dx, dgamma, dbeta = tape.gradient(y, [x, *parameters], output_gradients=dy)
        # Small enough to wait for, and there only after y and dx.
        done = tf.stack([tf.reshape(y, [-1])[-1], tf.reshape(dx, [-1])[-1]])
        return {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta, "done": done}

    step.parameters = parameters
    return step


def check(case, step, x, dy):
    """Leaves with an error if a step differs from float64 by more than rounding explains."""
    gamma, beta = (tf.convert_to_tensor(v).numpy().astype(float) for v in step.parameters)
    actual = step(x, dy)
    roundoff = UNIT_ROUNDOFF[x.dtype.name]
    for name, expected in oracle(x, dy, gamma, beta).items():
        error = np.max(np.abs(actual[name].numpy().astype(float) - expected))
        # Sums in float32 lose more than the last rounding; 32 leaves room for that.
        limit = 32 * roundoff * np.max(np.abs(expected))
        if not error <= limit:
            sys.exit(f"Wrong {name} of {case}: off by {error:.3g}, allowed {limit:.3g}.")


def oracle(x, dy, gamma, beta):
    """y, dx, dgamma and dbeta in float64."""
    x, dy = x.numpy().astype(float), dy.numpy().astype(float)
    axes = tuple(range(x.ndim - 1))
    inverse_stddev = 1.0 / np.sqrt(x.var(axes) + EPSILON)
    xhat = (x - x.mean(axes)) * inverse_stddev
    mean_dy, mean_dy_xhat = dy.mean(axes), (dy * xhat).mean(axes)
    count = x.size / x.shape[-1]
    return {
        "y": gamma * xhat + beta,
        "dx": gamma * inverse_stddev * (dy - mean_dy - xhat * mean_dy_xhat),
        "dgamma": count * mean_dy_xhat,
        "dbeta": count * mean_dy,
    }


def table(results, options):
    grid = Table(title=f"forward + backward, {options.dtype}")
    grid.add_column("shape")
    grid.add_column("contender")
    for name in ("ms", "(quartiles)", "time / ours", "GB/s"):
        grid.add_column(name, justify="right")
    for shape, size, timings in results:
        label = "x".join(map(str, shape))
        for name, timing in timings.items():
            ratio = f"{timing.over(timings['ours']):.2f}"
            grid.add_row(label, name, *timing.cells(), ratio, f"{bandwidth(size, timing):.1f}")
            label = ""
        grid.add_section()
    return grid


def bandwidth(size, timing):
    """GB/s of the counted traffic."""
    return TRANSFERS * size / timing.milliseconds[1] / 1e6


def as_json(shape, size, timings):
    contenders = {
        name: {
            "milliseconds": timing.milliseconds,
            "over_ours": timing.over(timings["ours"]),
            "gigabytes_per_second": bandwidth(size, timing),
        }
        for name, timing in timings.items()
    }
    return {"shape": shape, "contenders": contenders}


if __name__ == "__main__":
    main()
