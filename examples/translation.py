"""Batch normalization in the encoder of a small translation model, on Multi30k de-en.

Multi30k task 1 (Elliott et al. 2016, https://github.com/multi30k/dataset): `--data` is a folder
with train.de, train.en, val.de, val.en, test_2016_flickr.de and test_2016_flickr.en, tokenised, a
sentence a line. BLEU needs sacrebleu.

Every finished run is added to `translation.json` in the folder `--out`; what is there is not run
again. The report beside it is made of that file alone. What follows `## Reading` in it is kept.

    python examples/translation.py --data multi30k                 an hour on two CPU cores
    python examples/translation.py --data multi30k --pairs 1280 --epochs 1 --seeds 1
    python examples/translation.py --data multi30k --orders pre --methods BN RBN
    python examples/translation.py --report
"""

import argparse
import math
import sys

import numpy as np
from experiment import exit_status, tf, train_missing
from images import BadInput, require
from results import Results, made_of, plain
from text_report import report
from text_training import (
    add_text_options,
    check_text_options,
    first_of,
    fit,
    read_lines,
    runs_of,
    vectorizer,
)
from transformer import NORMALIZATIONS, decoder, embedded, encoder
from translation_protocol import (
    BATCH,
    BUCKETS,
    RATE,
    SIZES,
    TID_BATCHES,
    WEIGHTS,
    experiment,
)

keras = tf.keras
START, END = "[start]", "[end]"


def main():
    return exit_status("translation", train_and_report, parse_arguments())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    with made_of(results.path):
        report(experiment(size), results.read(), options.out, console)


# The sentences.


class Pairs:
    """The data as batches of ((source, target so far), next word of the target)."""

    def __init__(self, folder, pairs):
        parts = {"train": "train", "val": "val", "test": "test_2016_flickr"}
        read = {name: self._read(folder, stem) for name, stem in parts.items()}
        read["train"] = tuple(first_of(lines, pairs, "--pairs") for lines in read["train"])
        source, target = (vectorizer(lines, SIZES) for lines in read["train"])
        self.words = target.get_vocabulary()
        self.references = read["test"][1]
        self.train, self.val, self.test = (
            (
                source(german)[:, : SIZES.most_tokens].numpy(),
                target(english)[:, : SIZES.most_tokens + 1].numpy(),
            )
            for german, english in read.values()
        )
        require(
            steps_of(self.train) > 0,
            f"{len(self.train[0])} pairs to train on make no batch of {BATCH}.",
        )

    @staticmethod
    def _read(folder, stem):
        paths = [folder / f"{stem}.{language}" for language in ("de", "en")]
        german, english = map(read_lines, paths)
        require(
            len(german) == len(english) > 0,
            f"{paths[0]} and {paths[1]} must have as many lines, and at least one, but have "
            f"{len(german)} and {len(english)}.",
        )
        return german, [f"{START} {line} {END}" for line in english]

    def batches(self, part, seed=None):
        """A dataset; with a seed it is shuffled, in batches of about the same length."""
        dataset = tf.data.Dataset.from_tensor_slices(part)
        if seed is None:
            dataset = dataset.batch(BATCH)
        else:
            dataset = dataset.shuffle(len(part[0]), seed=seed).bucket_by_sequence_length(
                lambda source, target: tf.maximum(length(source), length(target)),
                BUCKETS,
                [BATCH] * (len(BUCKETS) + 1),
                no_padding=True,  # It is there.
                drop_remainder=True,
            )
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps_of(part)))

        def trimmed(source, target):
            source, target = (x[:, : tf.reduce_max(length(x))] for x in (source, target))
            return (source, target[:, :-1]), target[:, 1:]

        return dataset.map(trimmed).prefetch(2)


def length(numbers):
    """Of sentences, without padding."""
    return tf.cast(tf.math.count_nonzero(numbers, -1), tf.int32)


def steps_of(part):
    """Batches in an epoch: each bucket drops what does not fill one."""
    lengths = np.maximum(*(np.count_nonzero(numbers, 1) for numbers in part))
    return int(sum(np.bincount(np.digitize(lengths, BUCKETS)) // BATCH))


# The network and its training.


def network(order, normalized):
    """From source and target so far to the scores of the next words; and without the last layer."""
    source, target = (keras.Input((None,), dtype="int64", name=n) for n in ("source", "target"))
    memory = encoder(embedded(source, SIZES), SIZES, order, normalized)
    x = decoder(embedded(target, SIZES), memory, SIZES, order, NORMALIZATIONS["LN"])
    head = keras.layers.Dense(SIZES.vocabulary)
    return keras.Model([source, target], head(x)), keras.Model([source, target], x), head


class Decay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up over a tenth of the steps, then cosine decay to 0."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        share = tf.cast(step, tf.float32) / self.steps
        cosine = 0.5 * (1.0 + tf.cos(math.pi * tf.minimum((share - 0.1) / 0.9, 1.0)))
        return RATE * tf.where(share < 0.1, 10.0 * share, cosine)


def train(order, method, weights, seed, pairs, epochs, after_epoch=lambda: None):
    """What translates, and the run; `weights` are those of RBN."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model, states, head = network(order, lambda: NORMALIZATIONS[method](**weights))
    training, held_out = pairs.batches(pairs.train, seed), pairs.batches(pairs.val)
    model.compile(
        keras.optimizers.Adam(Decay(epochs * len(training)), clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    run = fit(model, training, held_out, "val", epochs, method, after_epoch, TID_BATCHES)
    return (states, head), run


def train_all(options, results, console):
    bleu(["a"], ["a"])  # Not after an hour of training.
    pairs = Pairs(options.data, options.pairs)

    def train_one(order, method, seed, after_epoch):
        model, run = train(order, method, WEIGHTS[order], seed, pairs, options.epochs, after_epoch)
        return {**run, "bleu": plain(bleu(translated(*model, pairs), pairs.references))}

    def said(run):
        return f"BLEU {run['bleu']:.1f}"

    train_missing(runs_of(options), results, console, options.epochs, train_one, said)


# Translations.


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
        target = np.zeros((len(source), SIZES.most_tokens), np.int64)
        target[:, 0] = first
        is_done = np.zeros(len(source), bool)
        for position in range(SIZES.most_tokens - 1):
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


if __name__ == "__main__":
    sys.exit(main())
