"""Batch normalization in the encoder of a small translation model, on Multi30k de-en.

Multi30k task 1 (Elliott et al. 2016, https://github.com/multi30k/dataset): `--data` is a folder
with train.de, train.en, val.de, val.en, test_2016_flickr.de and test_2016_flickr.en, tokenised, a
sentence a line. BLEU needs sacrebleu.

Every finished run is added to `translation.json` in the folder `--out`; what is there is not run
again. The report beside it is made of that file alone. What follows `## Reading` in it is kept.

    python examples/translation.py --data multi30k                 hours on two CPU cores
    python examples/translation.py --data multi30k --pairs 1280 --epochs 1 --seeds 1
    python examples/translation.py --data multi30k --orders pre --methods BN RBN
    python examples/translation.py --report
"""

import argparse
import math
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
from text_report import ORDERS, report
from transformer import NORMALIZATIONS, decoder, embedded, encoder
from translation_protocol import (
    BATCH,
    BLOCKS,
    DROPOUT,
    HEADS,
    MOST_TOKENS,
    RATE,
    VOCABULARY,
    WEIGHTS,
    WIDTH,
    experiment,
)

import keras_norms

keras = tf.keras
tf.get_logger().setLevel("ERROR")
START, END = "[start]", "[end]"


def main():
    options = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    console = Console()
    try:
        check(options)
        size = {name: getattr(options, name) for name in ("pairs", "epochs")}
        results = Results(options.out / "translation.json", size)
        if not options.report:
            train_all(options, results, console)
        options.out.mkdir(parents=True, exist_ok=True)
        report(experiment(size), results.read(), options.out, console)
    except (BadInput, OSError) as error:
        print(f"translation: {error}", file=sys.stderr)
        return 2
    return 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="a folder with train.de, train.en, val.… and test_2016_flickr.…")
    add("--pairs", type=int, default=29000, help="to train on, default %(default)s, all")
    add("--epochs", type=int, default=6, help="default %(default)s")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default 1 2 3")
    add("--orders", nargs="+", default=list(ORDERS), help=f"of {', '.join(ORDERS)}")
    names = list(NORMALIZATIONS)
    add("--methods", nargs="+", default=names, help=f"of {', '.join(names)}")
    add("--threads", type=int, default=1, help="default 1: two processes do more than two threads")
    add("--out", type=Path, default=Path("demo_output"), help="default %(default)s")
    add("--report", action="store_true", help="train nothing, only write the report")
    return parser.parse_args()


def check(options):
    for what, names, known in (
        ("order", options.orders, ORDERS),
        ("method", options.methods, NORMALIZATIONS),
    ):
        for name in names:
            require(name in known, f"there is no {what} {name}; there are {', '.join(known)}.")
    require(options.pairs >= BATCH, f"--pairs must be at least {BATCH}, but is {options.pairs}.")
    for name in ("epochs", "threads"):
        value = getattr(options, name)
        require(value > 0, f"--{name} must be positive, but is {value}.")
    require(min(options.seeds) >= 0, f"a seed must be at least 0, but one is {min(options.seeds)}.")
    require(options.data or options.report, "--data must name the folder with the sentences.")
    require(not options.out.is_file(), f"{options.out} is a file, not a folder.")


# The sentences.


class Pairs:
    """The data as batches of ((source, target so far), next word of the target)."""

    def __init__(self, folder, pairs):
        parts = {"train": "train", "val": "val", "test": "test_2016_flickr"}
        read = {name: self._read(folder, stem) for name, stem in parts.items()}
        self.train = tuple(lines[:pairs] for lines in read["train"])
        self.val, self.test = read["val"], read["test"]
        self.source, self.target = (self._vectorizer(lines) for lines in self.train)
        self.words = self.target.get_vocabulary()

    @staticmethod
    def _read(folder, stem):
        paths = [folder / f"{stem}.{language}" for language in ("de", "en")]
        for path in paths:
            require(path.is_file(), f"there is no file {path}.")
        german, english = (p.read_text(encoding="utf-8").splitlines() for p in paths)
        require(
            len(german) == len(english) > 0,
            f"{paths[0]} and {paths[1]} must have as many lines, and at least one, but have "
            f"{len(german)} and {len(english)}.",
        )
        return german, [f"{START} {line} {END}" for line in english]

    @staticmethod
    def _vectorizer(lines):
        layer = keras.layers.TextVectorization(VOCABULARY, standardize=None, split="whitespace")
        layer.adapt(lines)
        return layer

    def batches(self, part, seed=None):
        """A dataset; with a seed it is shuffled anew in each epoch and drops the last few."""
        dataset = tf.data.Dataset.from_tensor_slices(part)
        if seed is not None:
            dataset = dataset.shuffle(len(part[0]), seed=seed)
        dataset = dataset.batch(BATCH, drop_remainder=seed is not None)

        def numbered(german, english):
            source = self.source(german)[:, :MOST_TOKENS]
            target = self.target(english)[:, : MOST_TOKENS + 1]
            return (source, target[:, :-1]), target[:, 1:]

        return dataset.map(numbered).prefetch(2)


# The network and its training.


def network(order, normalized):
    """From source and target so far to the scores of the next words; and without the last layer."""
    source, target = (keras.Input((None,), dtype="int64", name=n) for n in ("source", "target"))
    memory = embedded(source, VOCABULARY, WIDTH, MOST_TOKENS, DROPOUT)
    memory = encoder(memory, BLOCKS, HEADS, order, normalized, DROPOUT)
    x = embedded(target, VOCABULARY, WIDTH, MOST_TOKENS, DROPOUT)
    x = decoder(x, memory, BLOCKS, HEADS, order, NORMALIZATIONS["LN"], DROPOUT)
    head = keras.layers.Dense(VOCABULARY)
    return keras.Model([source, target], head(x)), keras.Model([source, target], x), head


class Decay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up over a tenth of the steps, then cosine decay to 0."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        share = tf.cast(step, tf.float32) / self.steps
        cosine = 0.5 * (1.0 + tf.cos(math.pi * tf.minimum((share - 0.1) / 0.9, 1.0)))
        return RATE * tf.where(share < 0.1, 10.0 * share, cosine)


def train(order, method, pairs, epochs, seed):
    """BLEU, cross-entropy after each epoch, TID over the training and at its end, the seconds."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    weights = WEIGHTS[order] if method == "RBN" else {}
    model, states, head = network(order, lambda: NORMALIZATIONS[method](**weights))
    training = pairs.batches(pairs.train, seed)
    model.compile(
        keras.optimizers.Adam(Decay(epochs * len(training)), clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=min(10, len(training)))
    start = time.perf_counter()
    history = model.fit(
        training,
        validation_data=pairs.batches(pairs.val),
        epochs=epochs,
        shuffle=False,  # The dataset does that.
        verbose=0,
        callbacks=[] if method == "LN" else [tid],
    ).history
    run = {"seconds": round(time.perf_counter() - start, 1)}
    run["train_loss"], run["val_loss"] = (
        list(map(plain, history[name])) for name in ("loss", "val_loss")
    )
    run["bleu"] = plain(bleu(translated(states, head, pairs), pairs.test[1]))
    if method != "LN":
        run["tid_steps"] = tid.steps
        for kind in ("mean", "variance"):
            values = np.mean([kept[kind] for kept in tid.history.values()], axis=0)
            run[f"tid_{kind}"] = list(map(plain, values))
        found = keras_norms.diagnostics.training_inference_discrepancy(
            model, training, steps=100, verbose=0
        )
        for kind in ("mean", "variance"):
            run[f"final_tid_{kind}"] = plain(np.mean([getattr(d, kind) for d in found.values()]))
    return run


def translated(states, head, pairs):
    """Greedy translations of the test sentences, as lines of words."""
    first, last = (pairs.words.index(word) for word in (START, END))

    @tf.function
    def next_words(source, target, position):
        scores = head(states([source, target], training=False)[:, position])
        # Neither padding nor an unknown word, nor numbers that stand for none.
        return tf.argmax(scores[:, 2 : len(pairs.words)], -1) + 2

    lines = []
    for (source, _), _ in pairs.batches(pairs.test):
        target = np.zeros((len(source), MOST_TOKENS), np.int64)
        target[:, 0] = first
        is_done = np.zeros(len(source), bool)
        for position in range(MOST_TOKENS - 1):
            words = next_words(source, tf.constant(target), tf.constant(position)).numpy()
            is_done |= words == last
            if is_done.all():
                break
            target[:, position + 1] = np.where(is_done, 0, words)
        for row in target[:, 1:]:
            lines.append(" ".join(pairs.words[word] for word in row if word))
    return lines


def bleu(lines, references):
    try:
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise BadInput("BLEU needs sacrebleu: pip install sacrebleu.") from error
    plain_references = [
        line.removeprefix(f"{START} ").removesuffix(f" {END}") for line in references
    ]
    return corpus_bleu(lines, [plain_references], tokenize="none", force=True).score


def train_all(options, results, console):
    """Seed by seed, so that what is there when it is broken off can be compared."""
    bleu(["a"], ["a"])  # Not after an hour of training.
    pairs = Pairs(options.data, options.pairs)
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
                run = train(order, method, pairs, options.epochs, seed)
                results.add(order, method, seed, run=run)
                console.print(
                    f"{order} {method} {seed}: BLEU {run['bleu']:.1f} in {run['seconds']:.0f} s"
                )
            progress.advance(task)


if __name__ == "__main__":
    sys.exit(main())
