"""What `callbacks.TrainingInferenceDiscrepancy` costs in `fit`, sampling every 10 steps.

`fit` of the same model over the same batches, with the callback and without, in turns; and, to see
how much of that is noise, without it a second time.

    python benchmarks/monitor.py [--batch 64] [--steps 100] [--repeats 20]
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms
from keras_norms.keras_api import keras

BLOCKS = (16, 32, 64)


def main():
    options = arguments()
    console, header = Console(), environment()
    console.print(headline(header))
    timings = interleaved(contenders(options), options.repeats, lead_in=0)
    table = Table(title=f"fit over {options.steps} steps, ms a step, and time / without")
    for heading in ("", "ms", "quartiles", "ratio"):
        table.add_column(heading)
    for name, timing in timings.items():
        low, median, high = (value / options.steps for value in timing.milliseconds)
        ratio = timing.over(timings["without"])
        table.add_row(name, f"{median:.3g}", f"({low:.3g}-{high:.3g})", f"{ratio:.3f}")
    console.print(table)
    if options.json:
        record = {name: timing.milliseconds for name, timing in timings.items()}
        with open(options.json, "w") as file:
            json.dump({"environment": header, "steps": options.steps, "milliseconds": record}, file)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="in each call of fit")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.batch, options.steps, options.repeats = 4, 10, 1
    return options


def contenders(options):
    generator = np.random.default_rng(0)
    shape = (options.batch, 32, 32, 3)
    images = tf.constant(generator.normal(size=shape), tf.float32)
    labels = tf.constant(generator.integers(10, size=options.batch))
    dataset = tf.data.Dataset.from_tensors((images, labels)).repeat(options.steps)
    model = network()

    def fit(*callbacks):
        model.fit(dataset, shuffle=False, verbose=0, callbacks=list(callbacks))
        return 0.0

    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=10)
    return {"without": fit, "with the callback": lambda: fit(tid), "without, again": lambda: fit()}


def network():
    """9 normalization layers, the smallest case that is of use: elsewhere steps take longer."""
    layers = keras.layers

    def convolution(x, channels, stride=1):
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
        return layers.ReLU()(keras_norms.BatchNormalization()(x))

    inputs = x = keras.Input((32, 32, 3))
    for channels in BLOCKS:
        x = convolution(convolution(convolution(x, channels, 2), channels), channels)
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    return model


if __name__ == "__main__":
    main()
