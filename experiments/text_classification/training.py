"""The network, its training, and its drift where sentences lose words."""

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.results import plain
from experiments.text_classification.protocol import PILOT_SEED, RATE, SIZES, WORD_DROPOUT
from experiments.texts.training import fit
from experiments.texts.transformer import NORMALIZATIONS, embedded, encoder

keras = tf.keras


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
