"""Losses that layers add, in `fit` and custom loops on replicas: each counts once."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from tests import strategies

FEATURES, RATE = 3, 0.5


class Waits(keras.layers.Layer):
    """Makes each replica wait for the others in the middle of the model, as dropout may."""

    def __init__(self):
        super().__init__()
        self.seen = self.add_weight(
            name="seen", shape=(), trainable=False, initializer="zeros", dtype="float32"
        )

    def call(self, inputs):
        self.seen.assign_add(1.0)
        return inputs


BETWEEN = {
    "nothing": lambda: keras.layers.Activation("linear"),
    "a_variable": Waits,
    "dropout": lambda: keras.layers.Dropout(0.3, seed=1),
    "a_collective": lambda: keras_norms.SyncBatchNormalization(center=False, scale=False),
}


def trained(strategy, between, x, steps=1, custom=False):
    """The statistics of two layers after steps of SGD on `x`, and the losses reported."""
    keras.utils.set_random_seed(2)
    with strategy.scope():
        norms = [keras_norms.BatchlessNormalization(name=f"norm_{i}") for i in range(2)]
        head = keras.layers.Dense(1, trainable=False)
        stack = [keras.Input((FEATURES,)), norms[0], BETWEEN[between](), norms[1], head]
        model = keras.Sequential(stack)
        optimizer = keras.optimizers.SGD(RATE)
        model.compile(optimizer, "mse")
    dataset = tf.data.Dataset.from_tensors((x, np.zeros((len(x), 1), np.float32))).unbatch()
    dataset = dataset.batch(len(x)).repeat(steps)
    if not custom:
        reported = model.fit(dataset, shuffle=False, verbose=0).history["loss"]
    else:
        reported = custom_loop(strategy, model, optimizer, dataset)
    values = [np.asarray(tf.convert_to_tensor(v)) for n in norms for v in n.statistics_weights]
    return values, reported


def custom_loop(strategy, model, optimizer, dataset):
    def replica_step(batch):
        features, targets = batch
        with tf.GradientTape() as tape:
            outputs = model(features, training=True)
            task = tf.reduce_mean((outputs - targets) ** 2)
            loss = (task + tf.add_n(model.losses)) / strategy.num_replicas_in_sync
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return tf.add_n(model.losses)

    step = tf.function(lambda batch: strategy.run(replica_step, (batch,)))
    return [
        float(strategy.reduce("SUM", step(batch), axis=None))
        for batch in strategy.experimental_distribute_dataset(dataset)
    ]


# Replicas, what is between the layers, and whether a loop of one's own trains them.
CASES = [
    (1, "nothing", False),
    (1, "nothing", True),
    (4, "nothing", True),
    (4, "a_variable", False),
    (4, "a_variable", True),
    pytest.param(4, "dropout", False, marks=pytest.mark.main_leg),
    pytest.param(4, "a_collective", True, marks=pytest.mark.main_leg),
    *(pytest.param(2, name, False, marks=pytest.mark.full) for name in BETWEEN),
    *(pytest.param(2, name, True, marks=pytest.mark.full) for name in BETWEEN),
]


@pytest.mark.parametrize("replicas, between, custom", CASES)
def test_statistics_move_by_the_mean_gradient_of_the_replicas(rng, replicas, between, custom):
    """Statistics of the first layer are those of one step by hand, whatever happens after it."""
    x = rng.normal([3.0, 0.0, -1.0], [0.5, 1.0, 2.0], (16, FEATURES)).astype(np.float32)
    strategy = strategies.mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    values, reported = trained(strategy, between, x, custom=custom)
    exact = x.astype(np.float64)
    expected_mean = RATE * exact.mean(0) / FEATURES
    expected_log = -RATE * (1.0 - (exact**2).mean(0)) / FEATURES
    np.testing.assert_allclose(values[0], expected_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values[1], expected_log, rtol=1e-5, atol=1e-6)
    if custom:
        assert reported == [0.0]
    if between in ("nothing", "a_variable"):  # There the second layer sees the same values.
        np.testing.assert_allclose(values[2], expected_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(values[3], expected_log, rtol=1e-5, atol=1e-6)
    else:
        assert np.abs(values[3]).min() > 0.0


@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.full), 4])
def test_many_steps_on_replicas_equal_those_on_one_device(rng, replicas):
    x = rng.normal(1.0, 2.0, (16, FEATURES)).astype(np.float32)
    alone, _ = trained(tf.distribute.get_strategy(), "a_variable", x, steps=5)
    together, _ = trained(strategies.mirrored(replicas), "a_variable", x, steps=5)
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)


def test_a_layer_on_replicas_has_no_collective():
    strategy = strategies.mirrored(2)
    with strategy.scope():
        layer = keras_norms.BatchlessNormalization()
        layer.build((None, FEATURES))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y) + layer.losses[0]
        return tape.gradient(loss, [x, *layer.trainable_variables])

    traced = tf.function(lambda x: strategy.run(step, args=(x,)), autograph=False)
    operations = traced.get_concrete_function(tf.ones((2, FEATURES))).graph.get_operations()
    assert not [op.type for op in operations if op.type.startswith("Collective")]


def test_copies_have_no_losses(rng):
    layer = keras_norms.BatchlessNormalization()
    layer(tf.constant(rng.normal(size=(4, FEATURES)).astype(np.float32)), training=True)
    assert len(layer.losses) == 1
    twin = copy.deepcopy(layer)
    assert twin.losses == []
    twin(tf.ones((4, FEATURES)), training=True)
    assert len(twin.losses) == 1


@pytest.mark.keras_3  # Keras 2 does not pickle layers.
def test_pickles_have_no_losses(rng):
    model = keras.Sequential([keras.Input((FEATURES,)), keras_norms.BatchlessNormalization()])
    model(tf.ones((4, FEATURES)), training=True)
    assert pickle.loads(pickle.dumps(model)).losses == []
