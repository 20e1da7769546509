"""Batch Renormalization's published promise near convergence: groups of few images or few labels.

The ResNet of `experiments.small_batches` on all of CIFAR-10 at 16x16, 20,000 steps a run, BN and
BRN. A pilot on held-out training images chooses a learning rate for each method and setting, and
BRN's ramps. It is part of the run: its trainings come first.

Every finished run is added to `renorm_convergence.json` in the folder `--out`, and finished runs
are skipped: an interrupted study continues. The report beside it, tables and curves, is made from
that file alone. What the author wrote from `## Reading` on is kept.

    python -m experiments.renorm_convergence --data cifar10_jpeg.npz   two hours on a CPU core
    python -m experiments.renorm_convergence                           Keras loads CIFAR-10
    python -m experiments.renorm_convergence --images 2048 --held-out 512 --test-images 512 \\
        --epochs 2 --pilot-epochs 1 --seeds 1                          minutes, to see it run
    python -m experiments.renorm_convergence --report                  the report only
"""

import sys
from pathlib import Path

from experiments.bad_input import reports_bad_results, require
from experiments.command import add_options, check_options, exit_status, parser_of
from experiments.images import read_images
from experiments.renorm_convergence.choosing import (
    chosen,
    ramp_trials,
    rate_trials,
)
from experiments.renorm_convergence.protocol import (
    METHODS,
    PILOT_SETTING,
    RAMPS,
    SETTINGS,
    Contender,
)
from experiments.renorm_convergence.report import report
from experiments.renorm_convergence.training import halved, train
from experiments.results import Results
from experiments.runs import train_missing
from experiments.small_batches.protocol import BATCH as ARRANGED


def main():
    return exit_status("renorm_convergence", train_and_report, parse_arguments())


def parse_arguments():
    parser = parser_of("renorm_convergence", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help=".npz with train_jpeg, train_offsets, train_labels and test_…")
    add("--images", type=int, default=50_000, help="to train on, default %(default)s")
    add("--held-out", type=int, default=5_000, help="of these in the pilot, default %(default)s")
    add("--test-images", type=int, default=10_000, help="default %(default)s")
    add("--epochs", type=int, default=13, help="default %(default)s")
    add("--pilot-epochs", type=int, default=6, help="default %(default)s")
    add("--settings", nargs="+", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    add("--methods", nargs="+", default=list(METHODS), help=f"of {', '.join(METHODS)}")
    add_options(parser, seeds=[1, 2, 3])
    return parser.parse_args()


def train_and_report(options, console):
    check(options)
    results = Results(options.out / "renorm_convergence.json", size_of(options))
    if not options.report:
        train_all(options, results, console)
    options.out.mkdir(parents=True, exist_ok=True)
    with reports_bad_results(results.path):
        report(results.read(), options.out, console)


def check(options):
    names = ("setting", options.settings, SETTINGS), ("method", options.methods, METHODS)
    check_options(options, ["images", "epochs", "pilot_epochs", "held_out"], names)
    least = f"--test-images must be at least {ARRANGED}, but is {options.test_images}."
    require(options.test_images >= ARRANGED, least)
    rest = options.images - options.held_out
    sentence = f"--images less --held-out must be at least {4 * ARRANGED}, but is {rest}."
    require(rest >= 4 * ARRANGED, sentence)  # BRN's ramps need steps to rise in.


def size_of(options):
    names = ("images", "held_out", "test_images", "epochs", "pilot_epochs")
    return {name: getattr(options, name) for name in names}


def train_all(options, results, console):
    """The pilot, then seed by seed, so that the runs of an interrupted study can be compared.

    At last the pilot's trials in the other settings, which tell whether these would choose alike.
    """
    settings = [name for name in SETTINGS if name in options.settings]
    methods = [name for name in METHODS if name in options.methods]
    images, labels = read_images(options, "train", options.images)
    data = halved(images), labels
    test_images, test_labels = read_images(options, "test", options.test_images)
    test = halved(test_images), test_labels
    seen = options.images - options.held_out
    pilot_data, held_out = [part[:seen] for part in data], [part[seen:] for part in data]

    def finished():
        return results.read()["runs"]

    def try_one(_, setting, method, ramps, rate, seed, after_epoch):
        contender = Contender(method, SETTINGS[setting], RAMPS.get(ramps), rate)
        epochs = options.pilot_epochs
        return train(contender, pilot_data, held_out, epochs, seed, after_epoch, at_end=False)

    def train_one(setting, method, seed, after_epoch):
        ramps, rate = chosen(finished(), PILOT_SETTING, method)
        contender = Contender(method, SETTINGS[setting], RAMPS.get(ramps), rate)
        run = train(contender, data, test, options.epochs, seed, after_epoch)
        return {"ramps": ramps, "rate": rate, **run}

    def train_these(runs, epochs, train_one):
        train_missing(runs, results, console, epochs, train_one, summary)

    def try_all(settings):
        while runs := rate_trials(finished(), settings, methods):
            train_these(runs, options.pilot_epochs, try_one)
        train_these(ramp_trials(finished(), settings, methods), options.pilot_epochs, try_one)

    try_all([PILOT_SETTING])
    seeds = dict.fromkeys(options.seeds)
    runs = [(setting, method, seed) for seed in seeds for setting in settings for method in methods]
    train_these(runs, options.epochs, train_one)
    try_all([name for name in settings if name != PILOT_SETTING])


def summary(run):
    return f"{run['test_accuracy'][-1]:.1%}"


if __name__ == "__main__":
    sys.exit(main())
