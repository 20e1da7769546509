"""A training step of ResNet-50 as Keras has it, and with its batch norm layers replaced.

Three models of `keras.applications.ResNet50`, with the same weights: stock, ours, and
one without normalization, which shows how much of a step there is to gain.

    python benchmarks/resnet50.py [--size 64] [--batch 32] [--jit] [--dtype mixed_bfloat16]
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


def main():
    options = arguments()
    keras.mixed_precision.set_global_policy(options.dtype)
    images, labels = batch_of_noise(options)
    stock = stock_model(options)
    models = {
        "ours": with_layers(stock, ours),
        "stock": stock,
        "no normalization": with_layers(stock, lambda layer: Unnormalized()),
    }
    steps = {name: training_step(model, options.jit) for name, model in models.items()}
    timings = interleaved(
        {name: lambda step=step: step(images, labels) for name, step in steps.items()},
        options.repeats,
    )
    header = environment()
    console = Console()
    console.print(headline(header))
    console.print(table(timings, options))
    if options.json:
        record = {name: timing.milliseconds for name, timing in timings.items()}
        with open(options.json, "w") as file:
            json.dump({"environment": header, "milliseconds": record}, file)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--jit", action="store_true", help="compiled by XLA")
    parser.add_argument("--dtype", default="float32", help="a policy, as mixed_bfloat16")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="two tiny steps, to see that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.size, options.batch, options.repeats = 32, 2, 2
    return options


def batch_of_noise(options):
    """Images and labels."""
    generator = np.random.default_rng(0)
    shape = (options.batch, options.size, options.size, 3)
    images = tf.constant(generator.normal(size=shape), tf.float32)
    return images, tf.constant(generator.integers(options.classes, size=options.batch))


def stock_model(options):
    return keras.applications.ResNet50(
        weights=None,
        input_shape=(options.size, options.size, 3),
        classes=options.classes,
        classifier_activation=None,
    )


class Unnormalized(keras.layers.Layer):
    """Takes the place of a normalization in a model whose calls name a mask."""

    def call(self, inputs, training=None, mask=None):
        del training, mask
        return inputs


def ours(layer):
    return keras_norms.BatchNormalization.from_config(layer.get_config())


def with_layers(model, replacement):
    """The model with its batch norm layers replaced, and with its weights."""

    def clone(layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            return replacement(layer)
        return type(layer).from_config(layer.get_config())

    cloned = keras.models.clone_model(model, clone_function=clone)
    for layer, original in zip(cloned.layers, model.layers, strict=True):
        if layer.weights:
            layer.set_weights(original.get_weights())
    return cloned


def training_step(model, jit_compile=False):
    """A function of images and labels that makes a step of SGD and returns the loss."""
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(1e-6)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit_compile)
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return step


def table(timings, options):
    kind = options.dtype + (", XLA" if options.jit else "")
    grid = Table(title=f"ResNet-50, batch {options.batch}, {options.size}x{options.size}, {kind}")
    grid.add_column("batch norm")
    for name in ("step ms", "(quartiles)", "time / ours"):
        grid.add_column(name, justify="right")
    for name, timing in timings.items():
        grid.add_row(name, *timing.cells(), f"{timing.over(timings['ours']):.2f}")
    return grid


if __name__ == "__main__":
    main()
