"""Batch normalization in a small Transformer encoder, on SST-2: LN, BN and RBN, Pre- and Post-Norm.

SST-2 (Socher et al. 2013, https://nlp.stanford.edu/sentiment), as sentences: `--data` is a folder
with train.tsv, dev.tsv and test.tsv, a sentence, a tab and a label 0 or 1 on each line.

Every finished run is added to `text_classification.json` in the folder `--out`; what is there is
not run again. The report beside it, a table and curves, is made of that file alone. What follows
`## Reading` in the report is the author's and kept.

    python examples/text_classification.py --data sst2      half an hour on two CPU cores
    python examples/text_classification.py --data sst2 --sentences 640 --epochs 1 --seeds 1
    python examples/text_classification.py --data sst2 --orders post --methods BN RBN --seeds 1 2
    python examples/text_classification.py --data sst2 --pilot       how weights were chosen
    python examples/text_classification.py --report
"""

import argparse
import sys

import numpy as np
from experiment import exit_status, tf, train_missing
from images import require
from results import Results, made_of, plain
from text_protocol import (
    BATCH,
    PILOT_SEED,
    PILOT_WEIGHTS,
    RATE,
    SIZES,
    WEIGHTS,
    WORD_DROPOUT,
    experiment,
)
from text_report import report
from text_training import (
    add_text_options,
    batched,
    check_text_options,
    first_of,
    fit,
    read_lines,
    runs_of,
    vectorizer,
)
from transformer import NORMALIZATIONS, embedded, encoder

import keras_norms

keras = tf.keras


def main():
    return exit_status("text_classification", train_and_report, parse_arguments())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    with made_of(results.path):
        report(experiment(size), results.read(), options.out, console)


# The sentences.


def read_sentences(path):
    """The sentences and labels of a file."""
    texts, labels = [], []
    for number, line in enumerate(read_lines(path), 1):
        text, tab, label = line.rpartition("\t")
        require(
            tab and text.strip() and label in ("0", "1"),
            f"line {number} of {path} must be a sentence, a tab and 0 or 1, but is {line[:40]!r}.",
        )
        texts.append(text)
        labels.append(int(label))
    require(len(texts) > 1, f"{path} must have at least 2 sentences, but has {len(texts)}.")
    return texts, np.array(labels, np.int32)


class Sentences:
    """The data as batches of token numbers, padded to the longest of the batch."""

    def __init__(self, folder, sentences):
        self.train, self.dev, self.test = (
            read_sentences(folder / f"{part}.tsv") for part in ("train", "dev", "test")
        )
        self.train = tuple(first_of(values, sentences, "--sentences") for values in self.train)
        self.vectorize = vectorizer(self.train[0], SIZES)

    def batches(self, part, seed=None):
        def numbered(text, label):
            return self.vectorize(text)[:, : SIZES.most_tokens], label

        return batched(part, BATCH, seed).map(numbered).prefetch(2)


# The network and its training.


def network(order, normalized):
    tokens = keras.Input((None,), dtype="int64")
    x = encoder(embedded(tokens, SIZES), SIZES, order, normalized)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dropout(SIZES.dropout)(x)
    return keras.Model(tokens, keras.layers.Dense(1)(x))


def train(order, method, weights, seed, sentences, held_out, epochs, after_epoch=lambda: None):
    """The model and its run; `weights` are those of RBN."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = network(order, lambda: NORMALIZATIONS[method](**weights))
    training = sentences.batches(sentences.train, seed)
    steps = epochs * len(training)
    rate = keras_norms.schedules.LinearRamp(0, max(1, steps // 10), 0.0, RATE)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    held_out = sentences.batches(held_out)
    return model, fit(model, training, held_out, "test", epochs, method, after_epoch)


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


# Drift.


def drift_of_word_dropout(sentences, epochs):
    """How far sentences that lose words are from a reference, and what that costs in accuracy."""
    model, _ = train("pre", "BN", {}, PILOT_SEED, sentences, sentences.dev, epochs)
    texts, labels = sentences.test
    half = len(texts) // 2
    reference = keras_norms.diagnostics.StatisticsReference.of(
        model, sentences.batches((texts[:half], labels[:half])), verbose=0
    )
    found = {}
    for share in WORD_DROPOUT:
        rng = np.random.default_rng(PILOT_SEED)
        live = sentences.batches(
            ([without_words(t, share, rng) for t in texts[half:]], labels[half:])
        )
        drift = reference.compare(model, live, verbose=0)
        accuracy = model.evaluate(live, verbose=0, return_dict=True)["accuracy"]
        found[f"{share:g}"] = {
            "average": round(drift.average, 6),
            "flagged": round(drift.share, 4),
            "accuracy": plain(accuracy),
        }
    return found


def without_words(text, share, rng):
    """Each word is lost with this probability, but one is left."""
    words = text.split()
    kept = rng.random(len(words)) >= share
    kept[rng.integers(len(words))] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


if __name__ == "__main__":
    sys.exit(main())
