"""A training step of ResNet-50 as Keras has it, and with its batch norm layers replaced.

Models of `keras.applications`, with the same weights: stock, ours, ours with activations and
residuals fused, and one without normalization, which shows how much of a step there is to gain.

    python benchmarks/resnet50.py [--network MobileNetV2] [--size 64] [--batch 32] [--jit]
    python benchmarks/resnet50.py --losses 20   # of a training, fused and one by one
    python benchmarks/resnet50.py --memory      # the most memory that a process needs
"""

import argparse
import json
import os
import resource
import subprocess
import sys

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
    if options.losses:
        return print(compared_losses(stock, images, labels, options.losses))
    if options.memory:
        return print_peaks(options)
    models = {name: make(stock) for name, make in MODELS.items()}
    if options.peak_of:
        step = training_step(models[options.peak_of], options.jit)
        for _ in range(3):
            step(images, labels).numpy()
        return print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
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
    parser.add_argument("--network", default="ResNet50", help="of keras.applications")
    parser.add_argument("--losses", type=int, metavar="STEPS", help="compare fused and unfused")
    parser.add_argument("--memory", action="store_true", help="peak memory of each model")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
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
    return getattr(keras.applications, options.network)(
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


def fused(model):
    return keras_norms.fuse_activations(with_layers(model, ours)).model


def compared_losses(stock, images, labels, steps):
    """A sentence about trainings of the fused and of the unfused model."""
    losses = {}
    for name, model in {"one by one": with_layers(stock, ours), "fused": fused(stock)}.items():
        step = training_step(model, learning_rate=0.01)
        losses[name] = np.array([step(images, labels).numpy() for _ in range(steps)])
    apart = np.abs(losses["fused"] / losses["one by one"] - 1.0)
    first, last = losses["fused"][[0, -1]]
    return (
        f"{steps} steps, loss {first:.4f} to {last:.4f}: fused and unfused losses differ by at "
        f"most {apart.max():.1e} of the loss, {apart[:5].max():.1e} in the first 5 steps."
    )


def print_peaks(options):
    """The peak memory of a process that makes three steps of one of the models, in MB."""
    for name in MODELS:
        command = [sys.executable, __file__, "--network", options.network, "--peak-of", name]
        sizes = ["--size", str(options.size), "--batch", str(options.batch)]
        done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=True)
        print(f"{name}: {done.stdout.split()[-1]} MB")


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


def training_step(model, jit_compile=False, learning_rate=1e-6):
    """A function of images and labels that makes a step of SGD and returns the loss."""
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(learning_rate)
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
    grid = Table(
        title=f"{options.network}, batch {options.batch}, {options.size}x{options.size}, {kind}"
    )
    grid.add_column("batch norm")
    for name in ("step ms", "(quartiles)", "time / ours"):
        grid.add_column(name, justify="right")
    for name, timing in timings.items():
        grid.add_row(name, *timing.cells(), f"{timing.over(timings['ours']):.2f}")
    return grid


MODELS = {
    "ours": lambda stock: with_layers(stock, ours),
    "ours, fused": fused,
    "stock": lambda stock: stock,
    "no normalization": lambda stock: with_layers(stock, lambda layer: Unnormalized()),
}


if __name__ == "__main__":
    main()
