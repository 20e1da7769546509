"""A custom loop on four replicas that computes what one replica would.

Three rules: build the model in the strategy's scope; divide each replica's loss by the number of
replicas; add `model.losses`, where the layers put their own. The same steps without a strategy, on
the whole batch, end with the same weights.

    python examples/custom_loop.py     seconds
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contextlib

import numpy as np
import tensorflow as tf

import keras_norms

keras, layers = tf.keras, tf.keras.layers
REPLICAS, BATCH, STEPS = 4, 16, 20
cpu = tf.config.list_physical_devices("CPU")[0]
logical = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
tf.config.set_logical_device_configuration(cpu, logical)
rng = np.random.default_rng(0)
x = rng.normal(size=(STEPS, BATCH, 8))
y = np.sin(x.sum(-1, keepdims=True))


def built():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(32)])
    model.add(keras_norms.RegularizedBatchNormalization(synchronized=True, mean_weight=0.01))
    model.add(layers.ReLU())
    model.add(layers.Dense(1))
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def train(strategy=None):
    with strategy.scope() if strategy else contextlib.nullcontext():
        model, optimizer = built()
    replicas = strategy.num_replicas_in_sync if strategy else 1

    def of_replica(x, y):
        with tf.GradientTape() as tape:
            error = tf.reduce_mean((model(x, training=True) - y) ** 2)
            loss = (error + tf.add_n(model.losses)) / replicas
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    @tf.function
    def step(batch):
        if strategy is None:
            return of_replica(*batch)
        return strategy.reduce("SUM", strategy.run(of_replica, args=batch), axis=None)

    dataset = tf.data.Dataset.from_tensor_slices((x, y))  # An element is a batch.
    if strategy is not None:
        dataset = strategy.experimental_distribute_dataset(dataset.unbatch().batch(BATCH))
    losses = [float(step(batch)) for batch in dataset]
    return losses, model.get_weights()


keras.backend.set_floatx("float64")
losses, weights = train(tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)]))
losses_of_one, weights_of_one = train()
print(f"Loss {losses[0]:.3f} at first, {losses[-1]:.3f} after {STEPS} steps on 4 replicas")
apart = max(np.abs(a - b).max() for a, b in zip(weights, weights_of_one, strict=True))
print(f"Largest difference to one replica: {apart:.0e}")
