"""Batch normalization in the encoder of a small translation model, on Multi30k de-en.

Multi30k task 1 (Elliott et al. 2016, https://github.com/multi30k/dataset): `--data` is a folder
with train.de, train.en, val.de, val.en, test_2016_flickr.de and test_2016_flickr.en, tokenised, a
sentence a line. BLEU needs sacrebleu.

Every finished run is added to `translation.json` in the folder `--out`, and finished runs are
skipped. The report beside it is made from that file alone. What the author wrote from `## Reading`
on is kept.

    python -m experiments.translation --data multi30k                 an hour on two CPU cores
    python -m experiments.translation --data multi30k --pairs 1280 --epochs 1 --seeds 1
    python -m experiments.translation --data multi30k --orders pre --methods BN RBN
    python -m experiments.translation --report
"""

import sys

from experiments.bad_input import reports_bad_results, require
from experiments.command import exit_status, parser_of
from experiments.results import Results, plain
from experiments.runs import train_missing
from experiments.texts.report import report
from experiments.texts.training import add_text_options, check_text_options, runs_of
from experiments.translation.decoding import bleu, translated
from experiments.translation.protocol import BATCH, WEIGHTS, study
from experiments.translation.sentences import Pairs
from experiments.translation.training import train


def main():
    return exit_status("translation", train_and_report, parse_arguments())


def parse_arguments():
    parser = parser_of("translation", __doc__)
    most = "to train on, default %(default)s, all"
    parser.add_argument("--pairs", type=int, default=29000, help=most)
    folder = "train.de, train.en, val.… and test_2016_flickr.…"
    add_text_options(parser, folder, epochs=3, seeds=[1, 2, 3])
    return parser.parse_args()


def train_and_report(options, console):
    require(options.pairs >= BATCH, f"--pairs must be at least {BATCH}, but is {options.pairs}.")
    check_text_options(options)
    size = {name: getattr(options, name) for name in ("pairs", "epochs")}
    results = Results(options.out / "translation.json", size)
    if not options.report:
        train_all(options, results, console)
    options.out.mkdir(parents=True, exist_ok=True)
    with reports_bad_results(results.path):
        report(study(size), results.read(), options.out, console)


def train_all(options, results, console):
    bleu(["a"], ["a"])  # If sacrebleu is missing, say so now, not after an hour.
    pairs = Pairs(options.data, options.pairs)

    def train_one(order, method, seed, after_epoch):
        model, run = train(order, method, WEIGHTS[order], seed, pairs, options.epochs, after_epoch)
        return {**run, "bleu": plain(bleu(translated(*model, pairs), pairs.references))}

    def said(run):
        return f"BLEU {run['bleu']:.1f}"

    train_missing(runs_of(options), results, console, options.epochs, train_one, said)


if __name__ == "__main__":
    sys.exit(main())
