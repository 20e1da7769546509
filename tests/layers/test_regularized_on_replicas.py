"""The penalty of `RegularizedBatchNormalization` does not depend on the number of replicas."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from tests import oracles, strategies

LAYER = keras_norms.RegularizedBatchNormalization

TIME, FEATURES = 5, 3

LENGTHS = np.array([5, 1, 2, 4, 0, 0, 3, 1])  # On 4 replicas one has no token at all.


class FlatWithoutMask(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, inputs):
        return tf.reshape(inputs, (-1, TIME * inputs.shape[-1]))

    def compute_mask(self, inputs, mask=None):
        return None


def trained(strategy, tokens, custom):
    """The kernel before the layer after one step of SGD, the loss reported, and the statistics."""
    with strategy.scope():
        keras.utils.set_random_seed(3)
        inputs = keras.Input((TIME, FEATURES))
        masked = keras.layers.Masking()(inputs)
        dense = keras.layers.Dense(4, use_bias=False)
        norm = LAYER(mean_weight=0.3, variance_weight=0.2, synchronized=True)
        y = FlatWithoutMask()(norm(dense(masked)))
        outputs = keras.layers.Dense(1, kernel_initializer="zeros", trainable=False)(y)
        model = keras.Model(inputs, outputs)
        optimizer = keras.optimizers.SGD(0.5)
        model.compile(optimizer, "mse")
    dataset = tf.data.Dataset.from_tensors((tokens, np.zeros((len(tokens), 1), np.float32)))
    dataset = dataset.unbatch().batch(len(tokens))
    if custom:
        loss = custom_step(strategy, model, optimizer, dataset)
    else:
        loss = model.fit(dataset, shuffle=False, verbose=0).history["loss"][0]
    return [loss, *map(np.asarray, (*dense.get_weights(), *norm.get_weights()))]


def custom_step(strategy, model, optimizer, dataset):
    def replica_step(batch):
        with tf.GradientTape() as tape:
            model(batch[0], training=True)
            loss = tf.add_n(model.losses) / strategy.num_replicas_in_sync
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    (batch,) = strategy.experimental_distribute_dataset(dataset)
    losses = tf.function(lambda batch: strategy.run(replica_step, (batch,)))(batch)
    return float(strategy.reduce("SUM", losses, axis=None))


@pytest.mark.parametrize("custom", [False, True], ids=["fit", "custom"])
@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.full), 4])
def test_value_and_gradient_do_not_depend_on_the_replicas(rng, replicas, custom):
    """With uneven masks; against the penalty and its gradient in NumPy."""
    tokens = rng.normal(1.0, 2.0, (8, TIME, FEATURES)).astype(np.float32)
    mask = np.arange(TIME) < LENGTHS[:, None]
    tokens[~mask] = 0.0
    strategy = strategies.mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    loss, kernel, *_, moving_mean, moving_variance = trained(strategy, tokens, custom)

    keras.utils.set_random_seed(3)
    dense = keras.layers.Dense(4, use_bias=False)
    dense.build((None, FEATURES))
    start = dense.get_weights()[0].astype(np.float64)

    def penalty(kernel, frozen=start):
        (batch_mean, batch_variance), (fixed_mean, fixed_variance) = (
            [np.ravel(v) for v in oracles.moments(tokens @ k, mask=mask)[1:]]
            for k in (kernel, frozen)
        )
        mean_gap = batch_mean - 0.05 * fixed_mean
        variance_gap = batch_variance - (0.95 + 0.05 * fixed_variance)
        return 0.3 * np.sum(mean_gap**2) + 0.2 * np.sum(np.abs(variance_gap))

    np.testing.assert_allclose(loss, penalty(start), rtol=1e-5)
    expected = start - 0.5 * oracles.numerical_gradient(penalty, start)
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-5)
    _, mean, variance = oracles.moments(tokens @ start, mask=mask)
    np.testing.assert_allclose(moving_mean, 0.05 * np.ravel(mean), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moving_variance, 0.95 + 0.05 * np.ravel(variance), rtol=1e-5)
