"""Normalization with few images in each statistic: a small ResNet on CIFAR-10, method by method.

A step takes the mean gradient of 64 images, while the normalization works on groups of 4, 2 or 1
of them (`virtual_batch_size`), on groups of 8 that hold few labels, or on all 64, as synchronized
layers do. In the last setting each image is a step of its own.

Every finished run is added to `small_batches.json` in the folder `--out`, and finished runs are
skipped: an interrupted study continues, and several processes may share the work. The report
beside it, a table and curves, is made from that file alone. What the author wrote from
`## Reading` on is kept.

    python -m experiments.small_batches --data cifar10_jpeg.npz     hours on two CPU cores
    python -m experiments.small_batches                             the same; Keras loads CIFAR-10
    python -m experiments.small_batches --images 256 --epochs 1 --seeds 1     minutes, to see it run
    python -m experiments.small_batches --settings groups-4 --methods BN BRN --seeds 1 2
    python -m experiments.small_batches --report                    the report only
    python -m experiments.small_batches --pilot                     how rates were chosen
"""

import functools
import sys
from pathlib import Path

from experiments.bad_input import reports_bad_results, require
from experiments.command import add_options, check_options, exit_status, parser_of
from experiments.images import read_images
from experiments.results import Results
from experiments.runs import train_missing
from experiments.small_batches.network import batchless, normalization
from experiments.small_batches.protocol import (
    BATCH,
    COLORS,
    LEARNING_RATE,
    MOMENTUM,
    PILOT,
    PILOT_BATCHLESS,
    PILOT_SEED,
    PILOT_TEST_IMAGES,
    SETTINGS,
)
from experiments.small_batches.report import report
from experiments.small_batches.training import course, train


def main():
    return exit_status("small_batches", train_and_report, parse_arguments())


def parse_arguments():
    parser = parser_of("small_batches", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help=".npz with train_jpeg, train_offsets, train_labels and test_…")
    add("--images", type=int, default=10240, help="to train on, default %(default)s")
    add("--test-images", type=int, default=5000, help="default %(default)s")
    add("--epochs", type=int, default=12, help="default %(default)s")
    add("--momentum", type=float, default=MOMENTUM, help="of BN and BRN, default %(default)s")
    add("--learning-rate", type=float, default=LEARNING_RATE, help="default %(default)s")
    add("--settings", nargs="+", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    add("--methods", nargs="+", default=list(COLORS), help=f"of {', '.join(COLORS)}")
    add("--pilot", action="store_true", help="one run for each rate and multiplier of the pilots")
    add_options(parser, seeds=[1, 2, 3, 4, 5])
    return parser.parse_args()


def train_and_report(options, console):
    check(options)
    if options.pilot:
        pilot(options, console)
        return
    results = Results(options.out / "small_batches.json", size_of(options))
    if not options.report:
        train_all(options, results, console)
    options.out.mkdir(parents=True, exist_ok=True)
    with reports_bad_results(results.path):
        report(results.read(), options.out, console)


def check(options):
    names = ("setting", options.settings, SETTINGS), ("method", options.methods, COLORS)
    check_options(options, ["test_images", "epochs", "learning_rate"], names)
    require(
        options.images > 0 and options.images % BATCH == 0,
        f"--images must be a positive multiple of {BATCH}, but is {options.images}.",
    )
    require(0 <= options.momentum < 1, f"--momentum must be in [0, 1), not {options.momentum}.")
    steps = options.images // BATCH * options.epochs
    require(steps >= 3, f"BRN's schedule needs 3 steps of {BATCH} images, but there are {steps}.")


def size_of(options):
    names = ("learning_rate", "images", "test_images", "epochs", "momentum")
    return {name: getattr(options, name) for name in names}


def train_all(options, results, console):
    """Seed by seed, so that the runs of an interrupted study can be compared."""
    runs = [
        (setting, method, seed)
        for seed in dict.fromkeys(options.seeds)
        for setting in SETTINGS
        for method in SETTINGS[setting].methods
        if setting in options.settings and method in options.methods
    ]
    require(runs, "none of these methods is part of these settings.")
    images, labels = read_images(options, "train", options.images)
    test = read_images(options, "test", options.test_images)

    def train_one(name, method, seed, after_epoch):
        setting = SETTINGS[name]
        rows = course(labels, setting, options.epochs, seed)
        layer = normalization(method, setting, rows[..., 0].size, options.momentum)
        data = images, labels
        return train(layer, data, test, rows, seed, options.learning_rate, after_epoch)

    def accuracy(run):
        return f"{run['test_accuracy'][-1]:.1%}"

    train_missing(runs, results, console, options.epochs, train_one, accuracy)


def pilot(options, console):
    seen = options.images
    images, labels = read_images(options, "train", seen + PILOT_TEST_IMAGES)
    rows = course(labels[:seen], SETTINGS["whole"], options.epochs, PILOT_SEED)
    data, held_out = (images[:seen], labels[:seen]), (images[seen:], labels[seen:])
    for rate in PILOT:
        layer = normalization("BN", SETTINGS["whole"], rows[..., 0].size, MOMENTUM)
        run = train(layer, data, held_out, rows, PILOT_SEED, rate)
        console.print(f"BN, learning rate {rate}: {run['test_accuracy'][-1]:.1%}")
    rows = course(labels[:seen], SETTINGS["batch-1"], options.epochs, PILOT_SEED)
    for rate, multiplier in PILOT_BATCHLESS:
        layer = functools.partial(batchless, multiplier)
        run = train(layer, data, held_out, rows, PILOT_SEED, rate)
        accuracy = run["test_accuracy"][-1]
        console.print(f"Batchless, learning rate {rate}, {multiplier}: {accuracy:.1%}")


if __name__ == "__main__":
    sys.exit(main())
