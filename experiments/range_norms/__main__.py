"""Ranges, narrow number formats and gated normalization, against batch normalization.

A small convolutional network learns CIFAR-10 and scikit-learn's digits with each contender in the
place of its normalization, from the same weights and on the same batches.

Every finished run is added to `range_norms.json` in the folder `--out`, and finished runs are
skipped: an interrupted study continues, and several processes may share the work. The report
beside it, tables and pictures, is made from that file alone. What the author wrote from
`## Reading` on is kept.

    python -m experiments.range_norms --data cifar10_jpeg.npz    an hour on two CPU cores
    python -m experiments.range_norms                            the same; Keras loads CIFAR-10
    python -m experiments.range_norms --data-sets digits         minutes
    python -m experiments.range_norms --only batch,range_calibrated --images 256 --epochs 1
    python -m experiments.range_norms --report                   the report only
    python -m experiments.range_norms --pilot                    how the learning rate was chosen
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from experiments.bad_input import reports_bad_results, require
from experiments.command import add_options, check_options, exit_status, parser_of
from experiments.images import handwritten_digits, read_images
from experiments.range_norms.contenders import CONTENDERS, MIXED
from experiments.range_norms.protocol import (
    BATCH,
    DATA_SETS,
    DIGITS,
    LEARNING_RATE,
    PILOT,
    PILOT_NONE,
    PILOT_SEED,
    PILOT_TEST_IMAGES,
    SEEDS,
)
from experiments.range_norms.report import report
from experiments.range_norms.training import train
from experiments.results import Results
from experiments.runs import train_missing

DIGITS_SEED = 0  # Which digits are test images, for all runs.


@dataclasses.dataclass(frozen=True)
class Problem:
    """Images in [0, 1] and labels, to train on and to test on."""

    train: tuple
    test: tuple
    stages: tuple
    narrow_band: float


def main():
    return exit_status("range_norms", train_and_report, parse_arguments())


def parse_arguments():
    parser = parser_of("range_norms", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help=".npz with train_jpeg, train_offsets, train_labels and test_…")
    add("--images", type=int, default=8192, help="of CIFAR-10 to train on, default %(default)s")
    add("--test-images", type=int, default=4000, help="of CIFAR-10, default %(default)s")
    add("--epochs", type=int, default=6, help="on CIFAR-10, default %(default)s")
    add("--digits-epochs", type=int, default=20, help="default %(default)s")
    add("--data-sets", nargs="+", default=list(DATA_SETS), help=f"of {', '.join(DATA_SETS)}")
    add(
        "--only",
        type=lambda names: names.split(","),
        default=list(CONTENDERS),
        metavar="NAME[,NAME]",
        help=f"contenders, of {', '.join(CONTENDERS)}",
    )
    add("--pilot", action="store_true", help="one run for each learning rate of the pilot")
    add_options(parser, seeds=SEEDS)
    return parser.parse_args()


def train_and_report(options, console):
    check(options)
    if options.pilot:
        pilot(options, console)
        return
    results = Results(options.out / "range_norms.json", size_of(options))
    if not options.report:
        train_all(options, results, console)
    options.out.mkdir(parents=True, exist_ok=True)
    with reports_bad_results(results.path):
        report(results.read(), options.out, console)


def check(options):
    names = ("contender", options.only, CONTENDERS), ("data set", options.data_sets, DATA_SETS)
    check_options(options, ["test_images", "epochs", "digits_epochs"], names)
    require(
        options.images > 0 and options.images % BATCH == 0,
        f"--images must be a positive multiple of {BATCH}, but is {options.images}.",
    )


def size_of(options):
    names = ("images", "test_images", "epochs", "digits_epochs")
    return {name: getattr(options, name) for name in names}


def train_all(options, results, console):
    """Seed by seed, so that the runs of an interrupted study can be compared."""
    problems = {name: read(name, options) for name in dict.fromkeys(options.data_sets)}
    for name, problem in problems.items():
        epochs = options.digits_epochs if name == "digits" else options.epochs
        runs = [
            (name, batches, contender, seed)
            for seed in dict.fromkeys(options.seeds)
            for contender in CONTENDERS
            for batches in CONTENDERS[contender].batches
            if contender in options.only
        ]

        def train_one(_, batches, name, seed, after_epoch, problem=problem, epochs=epochs):
            made = CONTENDERS[name]
            return train(made, batches, problem, epochs, LEARNING_RATE, seed, after_epoch)

        train_missing(runs, results, console, epochs, train_one, accuracy)


def accuracy(run):
    return f"{run['test_accuracy'][-1]:.1%}"


def read(name, options):
    """The data set as a `Problem`."""
    if name == "digits":
        images, labels = handwritten_digits(DIGITS_SEED)
        images, labels = images[..., np.newaxis] / 16, labels.astype("int32")
        train, test = (0, DIGITS["images"]), (DIGITS["images"], len(labels))
        parts = [(images[start:end], labels[start:end]) for start, end in (train, test)]
    else:
        parts = [read_images(options, "train", options.images)]
        parts += [read_images(options, "test", options.test_images)]
        parts = [(images / 255, labels) for images, labels in parts]
    return problem_of(name, *parts)


def problem_of(name, *parts):
    shape, data_set = [(x.astype("float32"), y) for x, y in parts], DATA_SETS[name]
    return Problem(*shape, data_set.stages, data_set.narrow_band)


def pilot(options, console):
    seen = options.images
    images, labels = read_images(options, "train", seen + PILOT_TEST_IMAGES)
    parts = (images[:seen] / 255, labels[:seen]), (images[seen:] / 255, labels[seen:])
    problem = problem_of("cifar10", *parts)
    for name, rates in (("batch", PILOT), ("none", PILOT_NONE)):
        for rate in rates:
            run = train(CONTENDERS[name], MIXED, problem, options.epochs, rate, PILOT_SEED)
            accuracy, seconds = run["test_accuracy"][-1], run["seconds"]
            console.print(f"{name}, learning rate {rate}: {accuracy:.1%} in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
