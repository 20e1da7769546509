"""Normalization, sum and ReLU as one layer against one after the other, forward and backward.

Every contender is a step of x, a residual and dy with static shapes that returns y and the
gradients of x, the residual, gamma and beta in training mode.

    python benchmarks/fused.py [--shapes 32x56x56x64,nchw:32x64x56x56] [--dtype bfloat16] [--jit]
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import sys

import numpy as np
import tensorflow as tf
from contenders import EPSILON, Parameters
from layers import arguments
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms
from keras_norms.keras_api import keras

FORMS = {"BN + ReLU": False, "BN + add + ReLU": True}  # Whether there is a residual.


def main():
    options = arguments(__doc__)
    header = environment()
    console = Console()
    console.print(headline(header))
    results = []
    for case in options.shapes:
        for form, has_residual in FORMS.items():
            timings = benchmark(case, options, has_residual)
            results.append((case, form, timings))
            console.print(table(*results[-1], options))
    if options.json:
        record = [
            {
                "shape": case.shape,
                "axis": case.axis,
                "form": form,
                "milliseconds": {name: timing.milliseconds for name, timing in timings.items()},
                "over_fused": {
                    n: timing.over(reference(n, timings)) for n, timing in timings.items()
                },
            }
            for case, form, timings in results
        ]
        with open(options.json, "w") as file:
            json.dump({"environment": header, "dtype": options.dtype, "results": record}, file)


def benchmark(case, options, has_residual):
    """A `Timing` by contender, once their results have been compared."""
    generator = np.random.default_rng(0)
    dtype = tf.as_dtype(options.dtype)
    x, residual, dy = (
        tf.cast(generator.normal(1.0, 2.0, case.shape), dtype) for _ in ("x", "residual", "dy")
    )
    steps = {
        f"{name} jit" if compiled else name: step_function(
            case, dtype, make, has_residual, compiled
        )
        for name, make in CONTENDERS.items()
        for compiled in ((False, True) if options.jit else (False,))
        if not (compiled and name == "TensorFlow's fused")
    }
    expected = steps["ours, one by one"](x, residual, dy)
    for name, step in steps.items():
        check(name, case, step(x, residual, dy), expected)
    calls = {name: lambda s=step: s(x, residual, dy)["done"] for name, step in steps.items()}
    return interleaved(calls, options.repeats)


def check(name, case, found, expected):
    """Leaves with an error if results differ, but for a few values that are 0 but for rounding."""
    for key, value in expected.items():
        other, value = (np.array(tensor, float) for tensor in (found[key], value))
        differ = np.abs(other - value) > 2**-5 * np.max(np.abs(value))
        if np.mean(differ) > 1e-3:
            sys.exit(f"Wrong {key} of {name}, {case}: {np.mean(differ):.3g} of it differs.")


def fused(case, policy, parameters):
    layer = layer_of(keras_norms.BatchNormalization, case, policy, parameters, activation="relu")

    def call(x, residual):
        options = {} if residual is None else dict(residual=residual)
        return layer(x, training=True, **options)

    return call, layer


def one_by_one(layer_class):
    def make(case, policy, parameters):
        layer = layer_of(layer_class, case, policy, parameters)

        def call(x, residual):
            y = layer(x, training=True)
            return tf.nn.relu(y if residual is None else y + residual)

        return call, layer

    return make


def fused_operation(case, policy, parameters):
    """TensorFlow's fused operation, without moving statistics."""
    del policy
    layer = keras.layers.Layer()
    layer.gamma, layer.beta = (tf.Variable(tf.cast(value, tf.float32)) for value in parameters)
    first = case.axis == 1

    def call(x, residual):
        y = x if len(case.shape) == 4 else tf.reshape(x, [case.shape[0], 1, -1, case.shape[-1]])
        y, *_ = tf.compat.v1.nn.fused_batch_norm(
            y, layer.gamma, layer.beta, epsilon=EPSILON, data_format="NCHW" if first else "NHWC"
        )
        y = tf.reshape(y, case.shape)
        return tf.nn.relu(y if residual is None else y + residual)

    return call, layer


CONTENDERS = {
    "ours, fused": fused,
    "ours, one by one": one_by_one(keras_norms.BatchNormalization),
    "stock": one_by_one(keras.layers.BatchNormalization),
    "TensorFlow's fused": fused_operation,
}


def layer_of(layer_class, case, policy, parameters, **options):
    layer = layer_class(
        axis=case.axis,
        gamma_initializer=keras.initializers.Constant(parameters.gamma),
        beta_initializer=keras.initializers.Constant(parameters.beta),
        epsilon=EPSILON,
        dtype=policy,
        **options,
    )
    layer.build(case.shape)
    return layer


def step_function(case, dtype, make, has_residual, jit_compile):
    parameters = Parameters.random(case.shape[case.axis])
    policy = f"mixed_{dtype.name}" if dtype.size < 4 else dtype.name
    call, layer = make(case, policy, parameters)
    spec = tf.TensorSpec(case.shape, dtype)

    @tf.function(input_signature=[spec] * 3, jit_compile=jit_compile)
    def step(x, residual, dy):
        sources = [x, layer.gamma, layer.beta] + ([residual] if has_residual else [])
        with tf.GradientTape() as tape:
            tape.watch([x, residual])
            y = call(x, residual if has_residual else None)
        found = tape.gradient(y, sources, output_gradients=dy)
        done = tf.stack([tf.reshape(y, [-1])[-1], *(tf.reshape(g, [-1])[-1] for g in found[::3])])
        names = ["dx", "dgamma", "dbeta", "dresidual"]
        return {"y": y, "done": done, **dict(zip(names, found, strict=False))}

    return step.get_concrete_function()


def reference(name, timings):
    return timings["ours, fused jit" if name.endswith("jit") else "ours, fused"]


def table(case, form, timings, options):
    grid = Table(title=f"{case}, {form}, {options.dtype}")
    for name in ("contender", "ms", "(quartiles)", "time / fused"):
        grid.add_column(name, justify="left" if name == "contender" else "right")
    for name, timing in timings.items():
        grid.add_row(name, *timing.cells(), f"{timing.over(reference(name, timings)):.2f}")
    return grid


if __name__ == "__main__":
    main()
