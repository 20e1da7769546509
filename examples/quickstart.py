"""Four replicas with four images each: batch normalization per replica, and synchronized.

A small network learns scikit-learn's handwritten digits under `tf.distribute.MirroredStrategy`,
once with `keras_norms.BatchNormalization`, where each replica normalizes with the statistics of
its own 4 images, and once with `keras_norms.SyncBatchNormalization`, where all normalize with
those of the 16 images of the step. Seed, data order and initial weights are the same. Then the
second model is exported, and served by a process that cannot import keras_norms.

The settings were chosen with one seed while looking at the test images, so the table shows how
to use the layers and is no evidence that one of them is more accurate.

    python examples/quickstart.py             about a minute on two CPU cores
    python examples/quickstart.py --smoke     the same, but seconds of training
    python examples/quickstart.py --data images.npz
"""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from images import BadInput, handwritten_digits, prepared, quiet, read_npz, require

with quiet():
    import tensorflow as tf

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_norms

matplotlib.use("Agg")
from matplotlib import pyplot

keras = tf.keras
tf.get_logger().setLevel("ERROR")

IMAGES_PER_REPLICA = 4
SEED = 7


def main():
    options = parse_arguments()
    try:
        require(not options.out.is_file(), f"{options.out} is a file, not a folder.")
        require(min(options.epochs, options.replicas) > 0, "a run needs an epoch and a replica.")
        model = options.out / "model"
        replaceable = not model.exists() or (model / "saved_model.pb").is_file()
        require(replaceable, f"{model} would be replaced, but is no exported model.")
        data = read_npz(options.data) if options.data else handwritten_digits(SEED)
        step = IMAGES_PER_REPLICA * options.replicas
        data = prepared(data, step, few=options.smoke)
        options.out.mkdir(parents=True, exist_ok=True)
    except (BadInput, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    x_train, y_train, x_test, y_test = data
    strategy = mirrored_strategy(options.replicas)
    print(
        f"{len(x_train)} images to train on, {len(x_test)} to test on, "
        f"{strategy.num_replicas_in_sync} replicas with {IMAGES_PER_REPLICA} images each."
    )
    runs = {}
    for name, normalization, images in (
        ("per replica", keras_norms.BatchNormalization, IMAGES_PER_REPLICA),
        ("synchronized", keras_norms.SyncBatchNormalization, IMAGES_PER_REPLICA * options.replicas),
    ):
        print(f"\n{normalization.__name__}: statistics of {images} images")
        run = runs[name] = train(normalization, data, strategy, options.epochs)
        run["losses"] = losses(run["model"], normalization, data, images)
    print()
    print_table(runs)
    if options.smoke:
        print("One epoch on a few images shows that it runs; it is too short to compare.")
    print(f"Curves: {plot(runs, options.out / 'curves.png')}")
    export_and_serve(runs["synchronized"]["model"], x_test, options.out)
    return 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arrays = "x_train, y_train, x_test and y_test"
    parser.add_argument("--data", type=Path, help=f".npz with {arrays} instead of the digits")
    parser.add_argument("--epochs", type=int, help="default 8, with --smoke 1")
    parser.add_argument("--replicas", type=int, default=4, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="default %(default)s")
    parser.add_argument("--smoke", action="store_true", help="one epoch on 320 images")
    options = parser.parse_args()
    if options.epochs is None:
        options.epochs = 1 if options.smoke else 8
    return options


# The training.


def mirrored_strategy(replicas):
    """GPUs where there are enough of them, otherwise that many logical CPUs."""
    gpus, cpu = (tf.config.list_physical_devices(kind) for kind in ("GPU", "CPU"))
    kind = "GPU" if len(gpus) >= replicas else "CPU"
    if kind == "CPU":
        tf.config.set_visible_devices([], "GPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu[0], logical)
    return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(replicas)])


def build(normalization, image_shape, classes):
    layers = keras.layers

    def block(layer):
        return [layer, normalization(momentum=0.95), layers.ReLU()]

    return keras.Sequential(
        [
            layers.Input(image_shape),
            *block(layers.Conv2D(32, 3, padding="same", use_bias=False)),
            layers.MaxPooling2D(),
            *block(layers.Conv2D(64, 3, padding="same", use_bias=False)),
            layers.GlobalAveragePooling2D(),
            *block(layers.Dense(64, use_bias=False)),
            layers.Dense(classes),
        ]
    )


def train(normalization, data, strategy, epochs):
    x_train, y_train, x_test, y_test = data
    batch = IMAGES_PER_REPLICA * strategy.num_replicas_in_sync
    training = tf.data.Dataset.from_tensor_slices((x_train, y_train))
    training = training.shuffle(len(x_train), seed=SEED).batch(batch, drop_remainder=True)
    validation = tf.data.Dataset.from_tensor_slices((x_test, y_test)).batch(256)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * len(training))
    keras.utils.set_random_seed(SEED)
    with strategy.scope():
        model = build(normalization, x_train.shape[1:], 1 + int(y_train.max()))
        model.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    start = time.perf_counter()
    history = model.fit(
        training.prefetch(2),
        validation_data=validation,
        epochs=epochs,
        shuffle=False,  # The dataset shuffles.
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return dict(model=model, history=history.history, seconds=time.perf_counter() - start)


def losses(model, normalization, data, images_per_statistic):
    """The loss on the test images in training mode, in batches as in training, and at inference.

    Both on a copy, since a call in training mode moves the statistics.
    """
    *_, x, y = data
    copy = build(normalization, x.shape[1:], model.output_shape[-1])
    copy.set_weights(model.get_weights())
    call = tf.function(copy)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole = len(x) // images_per_statistic * images_per_statistic
    x, y = x[:whole], y[:whole]
    inference = float(loss(y, call(x, training=False)))
    batches = np.arange(whole).reshape(-1, images_per_statistic)
    return np.mean([loss(y[rows], call(x[rows], training=True)) for rows in batches]), inference


# What comes of it.


def print_table(runs):
    table = Table(title="On the test images", title_justify="left")
    table.add_column("statistics")
    losses = ("loss in\ntraining mode", "loss in\ninference mode", "gap")
    for heading in ("accuracy", *losses, "seconds"):
        table.add_column(heading, justify="right")
    for name, run in runs.items():
        accuracy, (training, inference) = run["history"]["val_accuracy"][-1], run["losses"]
        numbers = f"{accuracy:.1%} {training:.3f} {inference:.3f} {inference - training:+.3f}"
        table.add_row(name, *numbers.split(), f"{run['seconds']:.0f}")
    Console().print(table)


def plot(runs, path):
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, metric in zip(panels, ("accuracy", "loss"), strict=True):
        for color, (name, run) in zip(("tab:orange", "tab:blue"), runs.items(), strict=True):
            history = run["history"]
            epochs = range(1, 1 + len(history["loss"]))
            style = dict(color=color, marker="o", markersize=3)
            panel.plot(epochs, history[f"val_{metric}"], label=f"{name}, test", **style)
            panel.plot(epochs, history[metric], "--", label=f"{name}, training", **style)
        panel.set(xlabel="epoch", ylabel=metric)
        panel.xaxis.set_major_locator(pyplot.MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    panels[1].set_yscale("log")
    panels[1].yaxis.set_major_formatter("{x:g}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    beside = path.with_suffix(".tmp.png")
    figure.savefig(beside, dpi=120)
    os.replace(beside, path)
    return path


def export_and_serve(model, images, out):
    directory, beside = out / "model", out / "model.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(str(beside))
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(beside, directory)
    np.save(out / "images.npy", images)
    served = out / "predictions.npy"
    serve = [sys.executable, Path(__file__).with_name("serve.py")]
    done = subprocess.run(
        [*serve, directory, out / "images.npy", served], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"serve.py failed:\n{done.stderr}")
    difference = np.abs(np.load(served) - model.predict(images, verbose=0)).max()
    print(f"Exported: {directory}")
    print(
        f"Served by a process without keras_norms: {len(images)} predictions, "
        f"largest difference to the trained model's: {difference}"
    )


if __name__ == "__main__":
    sys.exit(main())
