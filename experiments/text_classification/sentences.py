"""The labelled sentences of SST-2."""

import numpy as np

from experiments.bad_input import require
from experiments.text_classification.protocol import BATCH, SIZES
from experiments.texts.training import batched, first_of, read_lines, vectorizer


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
