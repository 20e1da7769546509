"""The other layers against our own `BatchNormalization`, forward and backward.

A step returns y and the gradients of x and of everything that is trained, with the losses that a
layer adds, and updates what the layer remembers. All have their default arguments.

    python benchmarks/family.py [--shapes 32x56x56x64,nchw:32x64x56x56] [--dtype bfloat16] [--jit]
"""

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from layers import arguments
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms

LAYERS = {
    "BN": keras_norms.BatchNormalization,
    "Range": keras_norms.RangeBatchNormalization,
    "Light": keras_norms.LightNormalization,
    "ABN": keras_norms.AdaptiveBatchNormalization,
    "BRN": keras_norms.BatchRenormalization,
    "RBN": keras_norms.RegularizedBatchNormalization,
    "Batchless": keras_norms.BatchlessNormalization,
}


def main():
    options = arguments(__doc__)
    tf.get_logger().setLevel("ERROR")
    header, console = environment(), Console()
    console.print(headline(header))
    grid = Table(title=f"forward + backward, {options.dtype}: ms, and time / BN")
    for name in ("shape", "", *LAYERS):
        grid.add_column(name)
    results = []
    for case in options.shapes:
        timings = interleaved(contenders(case, options), options.repeats)
        for jit in (False, True) if options.jit else (False,):
            own = {name: timings[key(name, jit)] for name in LAYERS}
            cells = [
                f"{timing.milliseconds[1]:.3g}  {timing.over(own['BN']):.3f}"
                for timing in own.values()
            ]
            grid.add_row(str(case), "XLA" if jit else "", *cells)
            ratios = {name: timing.over(own["BN"]) for name, timing in own.items()}
            medians = {name: timing.milliseconds for name, timing in own.items()}
            record = {"shape": case.shape, "axis": case.axis, "jit": jit}
            results.append({**record, "over_bn": ratios, "milliseconds": medians})
    console.print(grid)
    console.print(f"Median of {options.repeats} interleaved calls; ratios are medians over rounds.")
    if options.json:
        record = {"environment": header, "dtype": options.dtype, "repeats": options.repeats}
        with open(options.json, "w") as file:
            json.dump({**record, "results": results}, file)


def key(name, jit):
    return f"{name} jit" if jit else name


def contenders(case, options):
    """Functions that run a step, by layer and whether XLA compiles it."""
    generator, dtype = np.random.default_rng(0), tf.as_dtype(options.dtype)
    x = tf.cast(generator.normal(1.0, 2.0, case.shape), dtype)
    dy = tf.cast(generator.normal(0.0, 1.0, case.shape), dtype)
    policy = f"mixed_{dtype.name}" if dtype.size < 4 else dtype.name
    steps = {}
    for name, kind in LAYERS.items():
        for jit in (False, True) if options.jit else (False,):
            layer = kind(axis=case.axis, dtype=policy)
            layer.build(case.shape)
            step = training_step(layer, x, dy, jit)
            steps[key(name, jit)] = lambda step=step: step(x, dy)["done"]
    return steps


def training_step(layer, x, dy, jit):
    @tf.function(jit_compile=jit)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            targets = [y, *layer.losses]
        ones = [tf.ones_like(loss) for loss in targets[1:]]
        inputs = [x, *layer.trainable_variables]
        gradients = tape.gradient(targets, inputs, output_gradients=[dy, *ones])
        done = tf.stack([tf.reshape(t, [-1])[-1] for t in (y, gradients[0])])
        return {"y": y, "gradients": gradients, "done": done}

    return step.get_concrete_function(x, dy)


if __name__ == "__main__":
    main()
