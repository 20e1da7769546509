"""Batches of four instances of one class: batch norm learns nothing, renormalization does.

The mean of such a batch is that of its class, and batch norm subtracts it. `BatchRenormalization`
corrects the statistics of the batch towards the moving ones, so that training sees what inference
will see. One seed shows how to use it; docs/results/small_batches.md measures it.

    python examples/one_class_batches.py     seconds
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import keras_norms

keras, layers = tf.keras, tf.keras.layers
CLASSES, FEATURES, BATCH, STEPS = 10, 32, 4, 1000
rng = np.random.default_rng(0)
centers = rng.normal(size=(CLASSES, FEATURES))


def instances(classes):
    noise = rng.normal(size=(len(classes), FEATURES))
    return (centers[classes] + noise).astype("float32"), classes


def batches():
    for _ in range(STEPS):
        yield instances(np.repeat(rng.integers(CLASSES), BATCH))


def renormalization():
    """The limits open in the first third; the default schedules take 40,000 steps."""
    ramp = keras_norms.schedules.LinearRamp.of_total
    return keras_norms.BatchRenormalization(
        r_max=ramp(STEPS, 0.04, 0.30, 1.0, 3.0), d_max=ramp(STEPS, 0.04, 0.19, 0.0, 5.0)
    )


test, labels = instances(np.arange(2000) % CLASSES)
for normalization in (keras_norms.BatchNormalization, renormalization):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)  # Both see the same batches.
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(64, use_bias=False)])
    model.add(normalization())
    model.add(layers.ReLU())
    model.add(layers.Dense(CLASSES))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    signature = tf.TensorSpec((BATCH, FEATURES), tf.float32), tf.TensorSpec((BATCH,), tf.int64)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    model.fit(dataset, shuffle=False, verbose=0)
    _, accuracy = model.evaluate(test, labels, verbose=0)
    print(f"{model.layers[1].__class__.__name__}: accuracy {accuracy:.1%} in inference")
