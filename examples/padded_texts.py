"""Padded texts: padding changes nothing, and RBN narrows the gap to inference.

Texts of a topic come together, as in sorted or bucketed data, so batches differ from each other
more than random ones. `Embedding(mask_zero=True)` sends a mask along, and the normalization leaves
the padding out. `TrainingInferenceDiscrepancy` measures the gap between the statistics of batches
and the moving ones while `fit` runs.

    python examples/padded_texts.py     seconds
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import keras_norms

keras, layers = tf.keras, tf.keras.layers
TOPICS, WORDS, LONGEST, BATCH = 8, 50, 20, 16


def texts(batches, rng):
    """Each batch is of one topic; the label is whether the first half of its words prevails."""
    tokens = np.zeros((batches, BATCH, LONGEST), "int64")
    labels = rng.integers(2, size=(batches, BATCH))
    for batch in range(batches):
        topic = rng.integers(TOPICS)
        for text, label in enumerate(labels[batch]):
            length = rng.integers(4, LONGEST + 1)
            is_first_half = rng.random(length) < (0.7 if label else 0.3)
            word = rng.integers(WORDS // 2, size=length) + WORDS // 2 * ~is_first_half
            tokens[batch, text, :length] = 1 + topic * WORDS + word
    return tokens.reshape(-1, LONGEST), labels.reshape(-1).astype("float32")


def model_with(normalization):
    model = keras.Sequential([keras.Input((None,), dtype="int64")])
    model.add(layers.Embedding(1 + TOPICS * WORDS, 32, mask_zero=True))
    model.add(layers.Dense(32))
    model.add(normalization)
    model.add(layers.Activation("relu"))
    model.add(layers.GlobalAveragePooling1D())
    model.add(layers.Dense(1))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


tokens, labels = texts(60, np.random.default_rng(0))
# Larger than the published weights, which are for losses of tokens and far longer trainings.
penalty = keras_norms.RegularizedBatchNormalization(mean_weight=10.0, variance_weight=1.0)
for normalization in (keras_norms.BatchNormalization(momentum=0.95), penalty):
    keras.utils.set_random_seed(1)
    model = model_with(normalization)
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=10)
    model.fit(tokens, labels, BATCH, epochs=6, shuffle=False, callbacks=[tid], verbose=0)
    (gaps,) = tid.history.values()
    mean, variance = (np.mean(gaps[kind][-12:]) for kind in ("mean", "variance"))
    print(
        f"{normalization.__class__.__name__}: gap of the mean {mean:.3f}, variance {variance:.3f}"
    )

longer = np.pad(tokens[:BATCH], ((0, 0), (0, 30)))
difference = np.abs(model(tokens[:BATCH], training=True) - model(longer, training=True)).max()
print(f"30 more positions of padding: largest difference {difference:.0e}")
