"""Drift of activation statistics: what a reference beside the model sees, and what poison does.

A small ResNet is trained on CIFAR-10, and its reference is recorded from clean images. Then live
data is compared with it: clean, with one channel of the model scaled, and with noise, blur and low
contrast. Finally the model continues training on a stream in which 1 % of the batches are poisoned,
with `max_update` and without.

Writes `drift.json`, and from it a report, `drift.md`, with pictures. What the author wrote from
`## Reading` on is kept.

    python -m experiments.drift --data cifar10_jpeg.npz     some ten minutes on one CPU core
    python -m experiments.drift                             the same; Keras loads CIFAR-10
    python -m experiments.drift --images 256 --test-images 200 --epochs 1 --stream 20
    python -m experiments.drift --report                    the report only
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from experiments.bad_input import reports_bad_results, require
from experiments.command import add_options, check_options, exit_status, parser_of
from experiments.drift.comparisons import (
    Comparison,
    accuracy_of,
    corrupt,
    picture,
    scale_channels,
)
from experiments.drift.protocol import BATCH, LEARNING_RATE, PICTURED, SEED
from experiments.drift.report import report
from experiments.drift.streams import normalization, poison
from experiments.images import read_images
from experiments.results import read_json, write
from experiments.runs import progress_bars
from experiments.small_batches.network import network
from experiments.small_batches.protocol import SETTINGS
from experiments.small_batches.training import course, epoch_of
from keras_norms.diagnostics import StatisticsReference

keras = tf.keras


def main():
    return exit_status("drift", measure_and_report, parse_arguments())


def parse_arguments():
    parser = parser_of("drift", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help=".npz with train_jpeg, train_offsets, train_labels and test_…")
    add("--images", type=int, default=10240, help="to train on, default %(default)s")
    add("--test-images", type=int, default=5000, help="in two halves, default %(default)s")
    add("--epochs", type=int, default=12, help="default %(default)s")
    add("--channels", type=int, default=20, help="scaled one by one, default %(default)s")
    add("--stream", type=int, default=500, help="batches of each stream, default %(default)s")
    add_options(parser, seeds=[4, 5, 6])
    return parser.parse_args()


def measure_and_report(options, console):
    check(options)
    path = options.out / "drift.json"
    if not options.report:
        found = measure(options, console)
        write(path, json.dumps(found, indent=1) + "\n")
    require(path.is_file(), f"there is no file {path} to make a report of.")
    found = read_json(path)
    names = {"size", "seconds", "clean", "scaled", "corrupted", "poisoned"}
    require(found.keys() == names, f"{path} is not a results file.")
    with reports_bad_results(path):
        report(found, options.out, console)


def check(options):
    check_options(options, positive=["epochs", "channels", "stream"])
    require(
        options.images > 0 and options.images % BATCH == 0,
        f"--images must be a positive multiple of {BATCH}, but is {options.images}.",
    )
    halves = options.test_images >= 4 * PICTURED and options.test_images % 2 == 0
    require(
        halves,
        f"--test-images must be even and at least {4 * PICTURED}, but is {options.test_images}.",
    )


def measure(options, console):
    """Everything to report, as JSON types. Writes the one picture that needs the model."""
    start = time.perf_counter()
    images, labels = read_images(options, "train", 2 * options.images)
    test_images, test_labels = read_images(options, "test", options.test_images)
    half = options.test_images // 2
    live, live_labels = test_images[half:], test_labels[half:]
    pool = images[options.images :].astype("float32"), labels[options.images :]
    options.out.mkdir(parents=True, exist_ok=True)
    with progress_bars(console) as progress:
        model = train(images[: options.images], labels[: options.images], options, progress)
        clean = test_images[:half]
        reference = StatisticsReference.of(model, clean, batch_size=100, verbose=0)
        comparison = Comparison(model, reference)
        accuracy = accuracy_of(model, live, live_labels)
        found = {
            "clean": {**comparison.summary(live), "accuracy": accuracy},
            "scaled": scale_channels(comparison, live, options.channels, progress),
            "corrupted": corrupt(comparison, live, live_labels, progress),
        }
        (options.out / "drift_report.png").write_bytes(picture(model, reference, live))
        weights = model.get_weights()
        found["poisoned"] = poison(weights, pool, (live, live_labels), options, progress)
    names = ("images", "test_images", "epochs", "channels", "stream", "seeds", "threads")
    size = {name: getattr(options, name) for name in names}
    return {"size": size, "seconds": round(time.perf_counter() - start), **found}


def train(images, labels, options, progress):
    rows = course(labels, SETTINGS["whole"], options.epochs, SEED)
    model = network(normalization(), SEED)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, rows[..., 0].size)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    images, labels = np.concatenate([images, images[:, :, ::-1]]), np.tile(labels, 2)
    train_epoch = epoch_of(model, optimizer, images, labels)
    for epoch_rows in progress.track(tf.constant(rows), len(rows), description="epochs"):
        train_epoch(epoch_rows)
    return model


if __name__ == "__main__":
    sys.exit(main())
