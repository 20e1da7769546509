"""Batch normalization in a small Transformer encoder, on SST-2: LN, BN and RBN, Pre- and Post-Norm.

SST-2 (Socher et al. 2013, https://nlp.stanford.edu/sentiment), as sentences: `--data` is a folder
with train.tsv, dev.tsv and test.tsv, a sentence, a tab and a label 0 or 1 on each line.

Every finished run is added to `text_classification.json` in the folder `--out`, and finished runs
are skipped. The report beside it, a table and curves, is made from that file alone. What the author
wrote from `## Reading` on is kept.

    python -m experiments.text_classification --data sst2      half an hour on two CPU cores
    python -m experiments.text_classification --data sst2 --sentences 640 --epochs 1 --seeds 1
    python -m experiments.text_classification --data sst2 --orders post --methods BN RBN
    python -m experiments.text_classification --data sst2 --pilot       how weights were chosen
    python -m experiments.text_classification --report
"""

import sys

from experiments.bad_input import reports_bad_results, require
from experiments.command import exit_status, parser_of
from experiments.results import Results
from experiments.runs import train_missing
from experiments.text_classification.protocol import (
    BATCH,
    PILOT_SEED,
    PILOT_WEIGHTS,
    WEIGHTS,
    study,
)
from experiments.text_classification.sentences import Sentences
from experiments.text_classification.training import drift_of_word_dropout, train
from experiments.texts.report import report
from experiments.texts.training import add_text_options, check_text_options, runs_of


def main():
    return exit_status("text_classification", train_and_report, parse_arguments())


def parse_arguments():
    parser = parser_of("text_classification", __doc__)
    most = "to train on, default %(default)s, all"
    parser.add_argument("--sentences", type=int, default=6920, help=most)
    parser.add_argument("--pilot", action="store_true", help="one run for each of RBN's weights")
    add_text_options(parser, "train.tsv, dev.tsv and test.tsv", epochs=6, seeds=[1, 2, 3, 4, 5])
    return parser.parse_args()


def train_and_report(options, console):
    require(
        options.sentences >= BATCH,
        f"--sentences must be at least {BATCH}, but is {options.sentences}.",
    )
    check_text_options(options)
    if options.pilot:
        try_weights(options, console)
        return
    size = {name: getattr(options, name) for name in ("sentences", "epochs")}
    results = Results(options.out / "text_classification.json", size)
    if not options.report:
        train_all(options, results, console)
    options.out.mkdir(parents=True, exist_ok=True)
    with reports_bad_results(results.path):
        report(study(size), results.read(), options.out, console)


def train_all(options, results, console):
    sentences = Sentences(options.data, options.sentences)

    def train_one(order, method, seed, after_epoch):
        data = sentences, sentences.test, options.epochs
        return train(order, method, WEIGHTS[order], seed, *data, after_epoch)[1]

    train_missing(runs_of(options), results, console, options.epochs, train_one, accuracy_of)
    if not results.has("drift"):
        results.add("drift", run=drift_of_word_dropout(sentences, options.epochs))


def try_weights(options, console):
    sentences = Sentences(options.data, options.sentences)

    for order in options.orders:
        for name, weights in PILOT_WEIGHTS.items():
            data = sentences, sentences.dev, options.epochs
            _, run = train(order, "RBN", weights, PILOT_SEED, *data)
            tids = ", ".join(f"{run[f'final_tid_{kind}']:.4f}" for kind in ("mean", "variance"))
            console.print(f"{order}, weights {name}: {accuracy_of(run)}, TID {tids}")


def accuracy_of(run):
    return f"{run['test_accuracy'][-1]:.1%}"


if __name__ == "__main__":
    sys.exit(main())
