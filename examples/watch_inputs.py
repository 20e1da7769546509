"""A sensor breaks: its channel is found. A poisoned batch arrives: the model is not moved.

`StatisticsReference` keeps the activation statistics of clean data beside the model; live data is
compared with it, without labels. `max_update` bounds what a batch may do to a model that continues
training.

    python examples/watch_inputs.py     seconds
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

import keras_norms

keras, layers = tf.keras, tf.keras.layers
SENSORS = 6
rng = np.random.default_rng(0)


def readings(count):
    x = rng.normal(loc=20.0, scale=np.arange(1.0, SENSORS + 1), size=(count, SENSORS))
    return x.astype("float32"), ((x - 20.0) / np.arange(1.0, SENSORS + 1)).sum(1) > 0


def model_with(max_update=None):
    model = keras.Sequential([keras.Input((SENSORS,))])
    model.add(keras_norms.BatchNormalization(momentum=0.9, max_update=max_update, name="sensors"))
    model.add(layers.Dense(16, activation="relu"))
    model.add(layers.Dense(1))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    metric = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=[metric])
    return model


keras.utils.set_random_seed(1)
model = model_with()
x, y = readings(2048)
model.fit(x, y, epochs=5, verbose=0)

reference = keras_norms.diagnostics.StatisticsReference.of(model, x, verbose=0)
path = Path(tempfile.mkdtemp()) / "model.keras"
model.save(path)
reference.save(reference.beside(path))

live, labels = readings(512)
print(f"Clean: {reference.compare(model, live, verbose=0).share:.0%} of the channels drifted")
broken = live.copy()
broken[:, 3] = 0.5 * broken[:, 3]
drift = reference.compare(model, broken, verbose=0)
(worst,) = drift.ranked(1)
print(f"Sensor 3 reads half: {worst.layer} channel {worst.channel}, psi {worst.value:.1f}")

poisoned = 1e4 * rng.normal(size=(32, SENSORS)).astype("float32")
for max_update in (None, 1.0):
    following = model_with(max_update)
    following.set_weights(model.get_weights())
    following(poisoned, training=True)  # Training that continues meets one bad batch.
    _, accuracy = following.evaluate(live, labels, verbose=0)
    print(f"Accuracy after a poisoned batch, max_update={max_update}: {accuracy:.0%}")
