"""One instance a step, from a stream that changes: `BatchlessNormalization` follows it.

No batch has to be collected, and nothing ties instances together. E[z^2], the second moment of
what a layer normalizes, is 1 where its statistics fit the data. It jumps when the stream changes
and returns as the statistics follow.

    python examples/single_instances.py     seconds
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import keras_norms

keras, layers = tf.keras, tf.keras.layers
FEATURES, STEPS = 16, 1500
rng = np.random.default_rng(0)
direction = rng.normal(size=FEATURES)


def stream(scale, offset):
    """Single instances, and the label that does not depend on scale and offset."""
    while True:
        x = rng.normal(size=FEATURES)
        yield (scale * x + offset)[np.newaxis].astype("float32"), np.array([x @ direction > 0])


def batchless(name):
    # The statistics move 10 times faster than other weights, under any optimizer.
    return keras_norms.BatchlessNormalization(
        name=name, monitor=0.99, learning_rate_multiplier=10.0
    )


keras.utils.set_random_seed(1)
model = keras.Sequential(
    [
        keras.Input((FEATURES,)),
        batchless("input"),
        layers.Dense(32, use_bias=False),
        batchless("hidden"),
        layers.ReLU(),
        layers.Dense(1),
    ]
)
optimizer = keras.optimizers.Adam(1e-3)
loss = keras.losses.BinaryCrossentropy(from_logits=True)
model.compile(optimizer, loss, metrics=["accuracy"])
first = np.concatenate([x for x, _ in (next(stream(1.0, 0.0)) for _ in range(256))])
keras_norms.initialize_statistics(model, first, verbose=0)

for title, scale, offset in (("first stream", 1.0, 0.0), ("scaled and shifted", 3.0, 2.0)):
    monitor = keras_norms.callbacks.SecondMomentMonitor(band=(0.0, float("inf")), every=10)
    signature = tf.TensorSpec((1, FEATURES), tf.float32), tf.TensorSpec((1,), tf.bool)
    instances = tf.data.Dataset.from_generator(
        lambda scale=scale, offset=offset: stream(scale, offset), output_signature=signature
    )
    options = dict(steps_per_epoch=STEPS, shuffle=False, callbacks=[monitor], verbose=0)
    history = model.fit(instances, **options)
    print(f"{title}: accuracy {history.history['accuracy'][-1]:.1%}")
    for name, values in monitor.history.items():
        print(f"  E[z^2] of {name}: largest {max(values):.2f}, at the end {values[-1]:.2f}")
