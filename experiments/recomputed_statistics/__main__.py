"""Moving statistics taken anew: after weights were averaged, and on data of another kind.

A small ResNet is trained on CIFAR-10. Its accuracy is measured with averaged weights, and with
noise, blur and low contrast, with the moving statistics of training and with recomputed ones.

Every finished run is added to `recomputed_statistics.json` in the folder `--out`, and finished runs
are skipped. The report beside it, tables and a picture, is made from that file alone. What the
author wrote from `## Reading` on is kept.

    python -m experiments.recomputed_statistics --data cifar10_jpeg.npz    ten minutes on a CPU core
    python -m experiments.recomputed_statistics                  the same; Keras loads CIFAR-10
    python -m experiments.recomputed_statistics --images 256 --test-images 200 --epochs 1 --seeds 1
    python -m experiments.recomputed_statistics --report         the report only
"""

import sys
from pathlib import Path

from experiments.bad_input import reports_bad_results, require
from experiments.command import add_options, check_options, exit_status, parser_of
from experiments.images import read_images
from experiments.recomputed_statistics.measuring import measure
from experiments.recomputed_statistics.protocol import BATCH, SEEDS
from experiments.recomputed_statistics.report import KEY, report
from experiments.results import Results
from experiments.runs import train_missing


def main():
    return exit_status("recomputed_statistics", measure_and_report, parse_arguments())


def parse_arguments():
    parser = parser_of("recomputed_statistics", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help=".npz with train_jpeg, train_offsets, train_labels and test_…")
    add("--images", type=int, default=8192, help="to train on, default %(default)s")
    add("--test-images", type=int, default=4000, help="in two halves, default %(default)s")
    add("--epochs", type=int, default=6, help="default %(default)s")
    add_options(parser, seeds=SEEDS)
    return parser.parse_args()


def measure_and_report(options, console):
    check(options)
    size = {name: getattr(options, name) for name in ("images", "test_images", "epochs")}
    results = Results(options.out / "recomputed_statistics.json", size)
    if not options.report:
        measure_all(options, results, console)
    options.out.mkdir(parents=True, exist_ok=True)
    with reports_bad_results(results.path):
        report(results.read(), options.out, console)


def check(options):
    check_options(options, positive=["epochs"])
    require(
        options.images > 0 and options.images % BATCH == 0,
        f"--images must be a positive multiple of {BATCH}, but is {options.images}.",
    )
    is_even = options.test_images > 0 and options.test_images % 2 == 0
    require(is_even, f"--test-images must be positive and even, but is {options.test_images}.")


def measure_all(options, results, console):
    data = read_images(options, "train", options.images)
    test = read_images(options, "test", options.test_images)
    runs = [(*KEY, seed) for seed in dict.fromkeys(options.seeds)]

    def measure_one(_, seed, after_epoch):
        return measure(data, test, options.epochs, seed, after_epoch)

    train_missing(runs, results, console, options.epochs, measure_one, summary)


def summary(run):
    swa = run["averaged"]["swa"]
    return f"SWA {swa['kept']:.1f} %, recomputed {swa['recomputed']:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
