"""Greedy translations, and their BLEU."""

import numpy as np
import tensorflow as tf

from experiments.bad_input import BadInput
from experiments.translation.protocol import SIZES
from experiments.translation.sentences import END, START


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
