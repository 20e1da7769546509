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
import time
from pathlib import Path

from experiment import Results, plain
from images import BadInput, quiet, require

with quiet():
    import tensorflow as tf

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from text_protocol import (
    BATCH,
    BLOCKS,
    DROPOUT,
    HEADS,
    MOST_TOKENS,
    PILOT_SEED,
    PILOT_WEIGHTS,
    RATE,
    VOCABULARY,
    WEIGHTS,
    WIDTH,
    WORD_DROPOUT,
    experiment,
)
from text_report import ORDERS, report
from transformer import NORMALIZATIONS, embedded, encoder

import keras_norms

keras = tf.keras
tf.get_logger().setLevel("ERROR")


def main():
    options = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    console = Console()
    try:
        check(options)
        size = {name: getattr(options, name) for name in ("sentences", "epochs")}
        results = Results(options.out / "text_classification.json", size)
        if options.pilot:
            pilot(options, console)
            return 0
        if not options.report:
            train_all(options, results, console)
        options.out.mkdir(parents=True, exist_ok=True)
        report(experiment(size), results.read(), options.out, console)
    except (BadInput, OSError) as error:
        print(f"text_classification: {error}", file=sys.stderr)
        return 2
    return 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="a folder with train.tsv, dev.tsv and test.tsv")
    add("--sentences", type=int, default=6920, help="to train on, default %(default)s, all")
    add("--epochs", type=int, default=6, help="default %(default)s")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="default 1 2 3 4 5")
    add("--orders", nargs="+", default=list(ORDERS), help=f"of {', '.join(ORDERS)}")
    names = list(NORMALIZATIONS)
    add("--methods", nargs="+", default=names, help=f"of {', '.join(names)}")
    add("--threads", type=int, default=1, help="default 1: two processes do more than two threads")
    add("--out", type=Path, default=Path("demo_output"), help="default %(default)s")
    add("--report", action="store_true", help="train nothing, only write the report")
    add("--pilot", action="store_true", help="one run for each of RBN's weights, on dev.tsv")
    return parser.parse_args()


def check(options):
    for what, names, known in (
        ("order", options.orders, ORDERS),
        ("method", options.methods, NORMALIZATIONS),
    ):
        for name in names:
            require(name in known, f"there is no {what} {name}; there are {', '.join(known)}.")
    for name in ("sentences", "epochs", "threads"):
        value = getattr(options, name)
        require(value > 0, f"--{name} must be positive, but is {value}.")
    require(min(options.seeds) >= 0, f"a seed must be at least 0, but one is {min(options.seeds)}.")
    require(options.data or options.report, "--data must name the folder with the sentences.")
    require(not options.out.is_file(), f"{options.out} is a file, not a folder.")


# The sentences.


def read_sentences(path):
    """The sentences and labels of a file."""
    require(path.is_file(), f"there is no file {path}.")
    texts, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text, tab, label = line.rpartition("\t")
        require(
            tab and text.strip() and label in ("0", "1"),
            f"line {number} of {path} must be a sentence, a tab and 0 or 1, but is {line[:40]!r}.",
        )
        texts.append(text)
        labels.append(int(label))
    require(texts, f"{path} is empty.")
    return texts, np.array(labels, np.int32)


class Sentences:
    """The data as batches of token numbers, padded to the longest of the batch."""

    def __init__(self, folder, sentences):
        self.train, self.dev, self.test = (
            read_sentences(folder / f"{part}.tsv") for part in ("train", "dev", "test")
        )
        self.train = tuple(values[:sentences] for values in self.train)
        self.vectorize = keras.layers.TextVectorization(
            VOCABULARY, standardize=None, split="whitespace"
        )
        self.vectorize.adapt(self.train[0])

    def batches(self, part, seed=None):
        """A dataset; with a seed it is shuffled anew in each epoch and drops the last few."""
        dataset = tf.data.Dataset.from_tensor_slices(part)
        if seed is not None:
            dataset = dataset.shuffle(len(part[0]), seed=seed)
        dataset = dataset.batch(BATCH, drop_remainder=seed is not None)
        return dataset.map(
            lambda text, label: (self.vectorize(text)[:, :MOST_TOKENS], label)
        ).prefetch(2)


# The network and its training.


def network(order, normalized):
    tokens = keras.Input((None,), dtype="int64")
    x = embedded(tokens, VOCABULARY, WIDTH, MOST_TOKENS, DROPOUT)
    x = encoder(x, BLOCKS, HEADS, order, normalized, DROPOUT)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(1)(keras.layers.Dropout(DROPOUT)(x)))


def train(order, method, weights, sentences, held_out, epochs, seed):
    """The model; and accuracy after each epoch, TID on the way and at the end, and the seconds."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = network(order, lambda: NORMALIZATIONS[method](**weights))
    training = sentences.batches(sentences.train, seed)
    steps = epochs * len(training)
    require(steps > 0, f"{len(sentences.train[0])} sentences are not a batch of {BATCH}.")
    rate = keras_norms.schedules.LinearRamp(0, max(1, steps // 10), 0.0, RATE)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=min(10, len(training)))
    callbacks = [] if method == "LN" else [tid]
    start = time.perf_counter()
    history = model.fit(
        training,
        validation_data=sentences.batches(held_out),
        epochs=epochs,
        shuffle=False,  # The dataset does that.
        verbose=0,
        callbacks=callbacks,
    ).history
    run = {"seconds": round(time.perf_counter() - start, 1)}
    run["train_loss"], run["test_accuracy"], run["test_loss"] = (
        list(map(plain, history[name])) for name in ("loss", "val_accuracy", "val_loss")
    )
    if method != "LN":
        run["tid_steps"] = tid.steps
        for kind in ("mean", "variance"):
            values = np.mean([kept[kind] for kept in tid.history.values()], axis=0)
            run[f"tid_{kind}"] = list(map(plain, values))
        found = keras_norms.diagnostics.training_inference_discrepancy(model, training, verbose=0)
        for kind in ("mean", "variance"):
            run[f"final_tid_{kind}"] = plain(np.mean([getattr(d, kind) for d in found.values()]))
    return model, run


def drift_of_word_dropout(sentences, epochs):
    """How far sentences that lose words are from a reference, and what that costs in accuracy."""
    model, _ = train("pre", "BN", {}, sentences, sentences.dev, epochs, PILOT_SEED)
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


def train_all(options, results, console):
    """Seed by seed, so that what is there when it is broken off can be compared."""
    sentences = Sentences(options.data, options.sentences)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [
        (order, method, seed)
        for seed in dict.fromkeys(options.seeds)
        for order in options.orders
        for method in options.methods
    ]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("runs", total=len(runs))
        for order, method, seed in runs:
            if not results.has(order, method, seed):
                weights = WEIGHTS[order] if method == "RBN" else {}
                held_out = sentences.test
                _, run = train(order, method, weights, sentences, held_out, options.epochs, seed)
                results.add(order, method, seed, run=run)
                accuracy = run["test_accuracy"][-1]
                console.print(f"{order} {method} {seed}: {accuracy:.1%} in {run['seconds']:.0f} s")
            progress.advance(task)
        if not results.has("drift"):
            results.add("drift", run=drift_of_word_dropout(sentences, options.epochs))


def pilot(options, console):
    sentences = Sentences(options.data, options.sentences)
    for order in options.orders:
        for name, weights in PILOT_WEIGHTS.items():
            _, run = train(
                order, "RBN", weights, sentences, sentences.dev, options.epochs, PILOT_SEED
            )
            accuracy, *tids = (run[k] for k in ("test_accuracy", "tid_mean", "tid_variance"))
            ends = ", ".join(f"{np.mean(tid[-10:]):.3f}" for tid in tids)
            console.print(f"{order}, weights {name}: {accuracy[-1]:.1%}, TID {ends}")


if __name__ == "__main__":
    sys.exit(main())
