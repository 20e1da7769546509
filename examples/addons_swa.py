"""Stochastic weight averaging of tensorflow-addons, and the statistics that averages lack.

A small network learns handwritten digits at a constant rate, and `tfa.optimizers.SWA` averages its
weights once an epoch. It averages what is trained; the moving statistics stay those of the last
weights, until `recompute_statistics` takes them anew. Printed are mean and range of three seeds.

    python examples/addons_swa.py             under a minute on two CPU cores
    python examples/addons_swa.py --smoke     one seed, two epochs on 160 images
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--smoke", action="store_true", help="one seed, two epochs on 160 images")
options = parser.parse_args()
try:
    import tensorflow_addons as tfa
except ImportError:
    needs = "this example needs tensorflow-addons, which runs on TensorFlow up to 2.15"
    parser.exit(2, f"addons_swa: {needs}: pip install '.[addons,examples]'.\n")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import keras_norms

keras, layers = tf.keras, tf.keras.layers
BATCH, TEST = 32, slice(1280, 1797)
seeds, count, epochs = ([1], 160, 2) if options.smoke else ([1, 2, 3], 1280, 12)
steps = count // BATCH
x, y = load_digits(return_X_y=True)
x = x.reshape(-1, 8, 8, 1).astype("float32") / 16


def trained():
    """Averages begin at two thirds of the training."""
    model = keras.Sequential([keras.Input((8, 8, 1))])
    for channels in (16, 32):
        model.add(layers.Conv2D(channels, 3, padding="same", use_bias=False))
        model.add(keras_norms.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    sgd = keras.optimizers.legacy.SGD(0.1, momentum=0.9)  # SWA takes optimizers of this kind only.
    swa = tfa.optimizers.SWA(sgd, start_averaging=epochs * 2 // 3 * steps, average_period=steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(swa, loss, metrics=["accuracy"])
    model.fit(x[:count], y[:count], batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def measure(weights):
    for statistics in ("of training", "recomputed"):
        if statistics == "recomputed":
            keras_norms.recompute_statistics(model, x[:count], batch_size=BATCH, verbose=0)
        _, accuracy = model.evaluate(x[TEST], y[TEST], batch_size=256, verbose=0)
        found.setdefault((weights, statistics), []).append(100.0 * accuracy)


found = {}
for seed in seeds:
    keras.utils.set_random_seed(seed)
    model = trained()
    last = model.get_weights()
    measure("last")
    model.set_weights(last)  # With the statistics of training again.
    model.optimizer.assign_average_vars(model.trainable_weights)
    measure("averaged")

table = Table("weights", "statistics", "accuracy in percent", "of the seeds")
for names, values in found.items():
    table.add_row(*names, f"{np.mean(values):.1f}", f"{min(values):.1f} to {max(values):.1f}")
Console(width=80).print(table)
