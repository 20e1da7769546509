"""The pairs of sentences of Multi30k, in batches of about one length."""

import numpy as np
import tensorflow as tf

from experiments.bad_input import require
from experiments.texts.training import first_of, read_lines, vectorizer
from experiments.translation.protocol import BATCH, BUCKETS, SIZES

START, END = "[start]", "[end]"


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
