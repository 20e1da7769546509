"""Drift of activation statistics: what a reference beside the model sees, and what poison does.

A small ResNet is trained on CIFAR-10, and its reference made of clean images. Then live data is
compared with it: clean, with one channel of the model scaled, and with noise, blur and little
contrast. At last the model goes on with a stream in which 1 % of the batches are poisoned, with
`max_update` and without.

Writes `drift.json`, and made of it a report, `drift.md`, with pictures. What follows `## Reading`
in the report is the author's and kept.

    python examples/drift.py --data cifar10_jpeg.npz     some ten minutes on one CPU core
    python examples/drift.py                             the same; Keras loads CIFAR-10
    python examples/drift.py --images 256 --test-images 200 --epochs 1 --stream 20     to see it run
    python examples/drift.py --report                    the report only
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
from drift_protocol import BATCH, CORRUPTIONS, FACTOR, LAYERS, LEARNING_RATE, PICTURED, SEED
from drift_report import report
from drift_streams import normalization, percent, poison
from experiment import add_options, check_options, exit_status, progress_bars, tf
from images import require
from results import made_of, plain, read_json, write
from scipy.ndimage import gaussian_filter
from small_batches import course, epoch_of, evaluation_of, network, read_images
from small_batches_protocol import SETTINGS

import keras_norms
from keras_norms.diagnostics.drift_report import figure

keras = tf.keras


def main():
    return exit_status("drift", measure_and_report, parse_arguments())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    require(found.keys() == names, f"{path} is no file of results.")
    with made_of(path):
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
    """All there is to report, of JSON types; writes the picture that needs the model."""
    start = time.perf_counter()
    images, labels = read_images(options, "train", 2 * options.images)
    test_images, test_labels = read_images(options, "test", options.test_images)
    half = options.test_images // 2
    live, live_labels = test_images[half:], test_labels[half:]
    pool = images[options.images :].astype("float32"), labels[options.images :]
    options.out.mkdir(parents=True, exist_ok=True)
    with progress_bars(console) as progress:
        model = train(images[: options.images], labels[: options.images], options, progress)
        reference = keras_norms.diagnostics.StatisticsReference.of(
            model, test_images[:half], batch_size=100, verbose=0
        )
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


# The model.


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


def accuracy_of(model, images, labels):
    """In percent."""
    return percent(evaluation_of(model, images, labels))


# Comparisons with the reference.


class Comparison:
    """Of a model with its reference."""

    def __init__(self, model, reference):
        self.model, self.reference = model, reference

    def drift(self, images):
        # The tests of scaled channels change the weights.
        options = dict(batch_size=100, same_weights=False, verbose=0)
        return self.reference.compare(self.model, images, **options)

    def summary(self, images):
        drift = self.drift(images)
        worst = drift.ranked(1)[0]
        return {
            "average": plain(drift.average),
            "share": plain(drift.share),
            "channels": drift.channels,
            "worst": plain(worst.value),
        }


def scale_channels(comparison, live, count, progress):
    """For some channels, each by itself: the ranks of a channel whose filter is scaled."""
    every = [
        (name, channel)
        for name, of in comparison.reference.layers.items()
        for channel in range(len(of["mean"]))
    ]
    chosen = np.random.default_rng(SEED).permutation(len(every))[:count]
    convolutions, found = convolutions_before(comparison.model), []
    for name, channel in progress.track([every[i] for i in chosen], description="channels"):
        with scaled(convolutions[name].kernel, channel):
            drift = comparison.drift(live)
        ranked = drift.ranked()
        places = [(one.layer, one.channel) for one in ranked]
        place = places.index((name, channel))
        other = ranked[place == 0]  # The worst of the other channels.
        values = drift.by_channel[name]
        found.append(
            {
                "layer": name,
                "channel": channel,
                "rank": place + 1,
                "rank_in_layer": 1 + int(np.sum(values > values[channel])),
                "value": plain(values[channel]),
                "other": [other.layer, other.channel, plain(other.value)],
                "share": plain(drift.share),
            }
        )
    return found


def convolutions_before(model):
    """By the names of the normalization layers."""
    outputs = {id(layer.output): layer for layer in model.layers if "conv" in layer.name}
    return {name: outputs[id(model.get_layer(name).input)] for name in LAYERS}


@contextlib.contextmanager
def scaled(kernel, channel):
    before = tf.identity(kernel)
    factors = tf.one_hot(channel, before.shape[-1], FACTOR, 1.0)
    kernel.assign(before * factors)
    try:
        yield
    finally:
        kernel.assign(before)


def corrupt(comparison, live, labels, progress):
    cases = [(kind, severity) for kind in CORRUPTIONS for severity in range(1, 6)]
    found = {kind: [] for kind in CORRUPTIONS}
    for kind, severity in progress.track(cases, description="corruptions"):
        images = corrupted(live, kind, severity)
        accuracy = accuracy_of(comparison.model, images, labels)
        found[kind].append({**comparison.summary(images), "accuracy": accuracy})
    return found


def corrupted(images, kind, severity):
    """Of uint8 images, such images."""
    value, x = CORRUPTIONS[kind][severity - 1], images.astype("float32")
    if kind == "noise":
        x = x + 255 * value * np.random.default_rng(SEED).standard_normal(x.shape, "float32")
    elif kind == "blur":
        x = gaussian_filter(x, (0, value, value, 0), mode="nearest")
    else:
        mean = x.mean((1, 2), keepdims=True)
        x = mean + value * (x - mean)
    return np.clip(np.rint(x), 0, 255).astype("uint8")


def picture(model, reference, live):
    """The picture of a report, of live data in which two things go wrong."""
    size = len(live) // PICTURED
    images, generator = live[: size * PICTURED].copy(), np.random.default_rng(SEED)
    middle, bad = len(images) // 2, slice(size * (PICTURED // 4), size * (PICTURED // 4 + 1))
    images[middle:] = corrupted(images[middle:], "contrast", 3)
    images[bad] = generator.integers(0, 256, images[bad].shape)
    drift = reference.compare(model, images, batch_size=size, verbose=0)
    title = "One batch of noise, and less contrast from the middle on"
    return figure(drift, title)


if __name__ == "__main__":
    sys.exit(main())
