"""`convert_batch_norm` on networks of `keras.applications`: there, back, and on in training.

Each network gets random weights and statistics, becomes `SyncBatchNormalization` and returns to
stock Keras. Then ResNet-50 trains on: a stock model, converted in the middle, against itself.

    python benchmarks/conversion.py [--networks ResNet50,MobileNetV2] [--size 96]
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from timing import environment, headline

import keras_norms
from keras_norms.keras_api import keras

APPLICATIONS = keras.applications


def main():
    options = arguments()
    console = Console(width=120)
    console.print(headline(environment()))
    table = Table(title="There and back", title_justify="left")
    for name in ("network", "layers", "weights after", "outputs of ours", "after", "seconds"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for name in options.networks:
        row = there_and_back(network(name, options.size))
        print(name, *row, file=sys.stderr)  # The whole takes minutes.
        table.add_row(name, *row)
        keras.backend.clear_session()
    console.print(table)
    console.print("Outputs: largest difference over the largest output, in float32.")
    losses = training(network("ResNet50", options.size))
    gaps = np.abs(losses[1] / losses[0] - 1.0)
    console.print(
        f"ResNet-50 in training, momentum kept: loss {losses[0, 0]:.4f} to {losses[0, -1]:.4f}; "
        f"ours differs by {gaps[:5].max():.1e} in 5 steps, by {gaps.max():.1e} in {gaps.size}."
    )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=lambda text: text.split(","), default=with_norms())
    parser.add_argument("--size", type=int, default=96)
    return parser.parse_args()


def with_norms():
    """Names of all networks that have batch normalization layers."""
    without = "ConvNeXt", "VGG"
    names = (name for name in dir(APPLICATIONS) if name[0].isupper())
    return [name for name in names if not name.startswith(without)]


def network(name, size):
    """A network with random gammas and betas and the statistics of noise images."""
    make = getattr(APPLICATIONS, name)
    model = make(weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg")
    generator = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        for weight in norm.trainable_weights:
            weight.assign(generator.uniform(0.8, 1.2, weight.shape))
    model(generator.uniform(0.0, 255.0, (4, size, size, 3)).astype(np.float32), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def there_and_back(model):
    start = time.perf_counter()
    ours, report = keras_norms.convert_batch_norm(model)
    seconds = time.perf_counter() - start
    back, _ = keras_norms.convert_batch_norm(
        ours, keras.layers.BatchNormalization, synchronized=False
    )
    pairs = zip(model.weights, back.weights, strict=True)
    same = all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)
    x = tf.random.stateless_uniform((1, *model.input_shape[1:]), (1, 2), 0.0, 255.0)
    y, of_ours, of_back = (
        np.asarray(tf.function(each, autograph=False)(x, training=False), np.float64)
        for each in (model, ours, back)
    )
    scale = np.abs(y).max()
    gaps = (f"{np.abs(other - y).max() / scale:.1e}" for other in (of_ours, of_back))
    counts = f"{len(report.changed)} of {len(report)}"
    return counts, "bit-equal" if same else "DIFFER", *gaps, f"{seconds:.0f}"


def training(body, before=3, after=20):
    """Losses of stock and of the same model converted after a few steps: `[2, steps]`."""
    model = keras.Sequential([body, keras.layers.Dense(10)])
    optimizer = keras.optimizers.SGD(1e-5, momentum=0.9)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = tf.random.stateless_uniform((16, *body.input_shape[1:]), (3, 4))
    labels = tf.range(16) % 10
    for _ in range(before):
        model.train_on_batch(x, labels)
    ours, _ = keras_norms.convert_batch_norm(model, keras_norms.BatchNormalization)
    return np.array(
        [[each.train_on_batch(x, labels) for _ in range(after)] for each in (model, ours)]
    )


if __name__ == "__main__":
    main()
