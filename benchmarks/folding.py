"""Inference of networks of `keras.applications` as they are and with normalizations folded.

Three models with the same weights: stock, with our layers in place of the stock ones, and folded.
Moving statistics are those of noise images, changed by random factors, and gammas and betas are
random, so that no layer is trivial and no output degenerate.

    python benchmarks/folding.py [--networks ResNet50,MobileNetV2] [--size 96] [--repeats 10]
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from resnet50 import ours, with_layers
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms
from keras_norms.keras_api import keras

NETWORKS = "ResNet50", "MobileNetV2", "EfficientNetB0"
BATCHES = 1, 32


def main():
    options = arguments()
    header, console = environment(), Console()
    console.print(headline(header))
    results = []
    for name in options.networks:
        stock = network(name, options.size)
        models = {"stock": stock, "ours": with_layers(stock, ours)}
        folded = {key: keras_norms.fold_batch_norm(model) for key, model in models.items()}
        reports = {key: report for key, (_, report) in folded.items()}
        models = {"folded": folded["stock"].model, **models}
        results.append({"network": name, "batches": {}, "errors": errors(name, models, options)})
        for key, report in reports.items():
            results[-1][f"folded_of_{key}"] = len(report.changed)
            results[-1][f"layers_of_{key}"] = len(report)
        for batch in options.batches:
            results[-1]["batches"][batch] = timed(models, images(batch, options.size), options)
    console.print(accuracy(results))
    console.print(speed(results, options))
    console.print(f"Median of {options.repeats} interleaved calls; ratios are medians over rounds.")
    if options.json:
        record = {"environment": header, "size": options.size, "repeats": options.repeats}
        with open(options.json, "w") as file:
            json.dump({**record, "results": results}, file, indent=1)


def arguments():
    def names(text):
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=names, default=NETWORKS, help="names, with commas")
    parser.add_argument("--size", type=int, default=96, help="height and width of the images")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="one small case, to see that it runs")
    options = parser.parse_args()
    options.batches = BATCHES
    if options.smoke:
        options.networks, options.size, options.repeats = ["MobileNetV2"], 32, 2
        options.batches = (1, 2)
    return options


def images(batch, size):
    return tf.constant(
        np.random.default_rng(batch).uniform(0, 255, (batch, size, size, 3)), "float32"
    )


def plain_network(name, size):
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=100, classifier_activation=None
    )


def network(name, size):
    """A network whose normalizations have work to do."""
    keras.utils.set_random_seed(0)
    model = plain_network(name, size)
    norms = [layer for layer in model.layers if hasattr(layer, "moving_variance")]
    generator = np.random.default_rng(0)
    momentum = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
        layer.gamma.assign(generator.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(generator.normal(0.0, 0.3, layer.beta.shape))
    model(images(16, size), training=True)  # The statistics are now those of these images.
    for layer, before in zip(norms, momentum, strict=True):
        layer.momentum = before
        variance = np.asarray(layer.moving_variance)
        shift = generator.normal(0.0, 0.1, variance.shape) * np.sqrt(variance)
        layer.moving_mean.assign(np.asarray(layer.moving_mean) + shift)
        layer.moving_variance.assign(variance * generator.uniform(0.7, 1.4, variance.shape))
    return model


def errors(name, models, options):
    """The largest errors of outputs, over the largest output: all against stock in float64."""
    keras.mixed_precision.set_global_policy("float64")
    exact = plain_network(name, options.size)
    keras.mixed_precision.set_global_policy("float32")
    assert {layer.compute_dtype for layer in exact.layers if layer.weights} == {"float64"}
    weights = [np.asarray(weight, np.float64) for weight in models["stock"].get_weights()]
    exact.set_weights(weights)
    batch = images(8, options.size)
    expected = np.asarray(exact(tf.cast(batch, tf.float64), training=False))

    def error(model, inputs):
        actual = np.asarray(model(inputs, training=False), np.float64)
        return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))

    found = {key: error(model, batch) for key, model in models.items()}
    folded = keras_norms.fold_batch_norm(exact).model
    return {"folded in float64": error(folded, tf.cast(batch, tf.float64)), **found}


def timed(models, batch, options):
    """Milliseconds of each model, and how many times as long as the folded one it takes."""

    def call(model):
        run = tf.function(lambda batch: model(batch, training=False), autograph=False)
        return lambda: run(batch)

    timings = interleaved({name: call(model) for name, model in models.items()}, options.repeats)
    return {
        name: {"milliseconds": timing.milliseconds, "over_folded": timing.over(timings["folded"])}
        for name, timing in timings.items()
    }


def accuracy(results):
    grid = Table(title="Normalizations folded, and errors against stock in float64")
    columns = list(results[0]["errors"])
    grid.add_column("network", no_wrap=True)
    for name in ("of stock", "of ours", *columns):
        grid.add_column(name, justify="right")
    for result in results:
        counts = [
            f"{result[f'folded_of_{k}']}/{result[f'layers_of_{k}']}" for k in ("stock", "ours")
        ]
        grid.add_row(result["network"], *counts, *(f"{v:.1e}" for v in result["errors"].values()))
    return grid


def speed(results, options):
    grid = Table(title=f"Inference, {options.size}x{options.size}")
    grid.add_column("network", no_wrap=True)
    for name in ("batch", "folded ms", "(quartiles)", "stock / folded", "ours / folded"):
        grid.add_column(name, justify="right")
    for result in results:
        for batch, cases in result["batches"].items():
            low, median, high = cases["folded"]["milliseconds"]
            ratios = (f"{cases[name]['over_folded']:.2f}" for name in ("stock", "ours"))
            spread = f"({low:.3g}-{high:.3g})"
            grid.add_row(result["network"], str(batch), f"{median:.3g}", spread, *ratios)
    return grid


if __name__ == "__main__":
    main()
