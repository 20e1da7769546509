"""The network and its training."""

import math

import tensorflow as tf

from experiments.texts.training import fit
from experiments.texts.transformer import NORMALIZATIONS, decoder, embedded, encoder
from experiments.translation.protocol import RATE, SIZES, TID_BATCHES

keras = tf.keras


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
