"""Synchronized layers at work: collectives, `fit`, and where they refuse to run."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from tests import oracles, strategies

CHANNELS = 3


@pytest.mark.parametrize("kind", ["SyncBatchNormalization", "BatchNormalization"])
def test_one_collective_forward_and_one_backward(kind):
    layers = 3
    strategy = strategies.mirrored(2)
    with strategy.scope():
        stack = [getattr(keras_norms, kind)() for _ in range(layers)]
        for layer in stack:
            layer.build((None, CHANNELS))

    def forward(x):
        for layer in stack:
            x = layer(x, training=True)
        return x

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = forward(x)
        return tape.gradient(y, [x, *(v for layer in stack for v in layer.trainable_variables)])

    counts = []
    for function in (forward, step):
        traced = tf.function(lambda x, f=function: strategy.run(f, args=(x,)), autograph=False)
        x = strategies.distribute(strategy, [tf.ones((2, CHANNELS))] * 2)
        operations = traced.get_concrete_function(x).graph.get_operations()
        counts.append(sum(op.type.startswith("Collective") for op in operations) / layers / 2)
    assert counts == ([1, 2] if kind == "SyncBatchNormalization" else [0, 0])


def test_three_parallel_branches_do_not_hang(rng):
    """Independent collectives must be issued in the same order on all replicas."""
    strategy = strategies.mirrored(4)
    with strategy.scope():
        stack = [keras_norms.SyncBatchNormalization() for _ in range(3)]
        for layer in stack:
            layer.build((None, CHANNELS))

    @tf.function
    def step(x):
        return strategy.run(lambda x: tf.add_n([layer(x, training=True) for layer in stack]), (x,))

    x = rng.normal(size=(4, 2, CHANNELS)).astype(np.float32)
    for _ in range(200):
        y = step(strategies.distribute(strategy, [tf.constant(v) for v in x]))
    expected = 3 * oracles.batch_norm(x, 1.0, 0.0, 1e-3)[0]
    np.testing.assert_allclose(
        np.stack(strategy.experimental_local_results(y)), expected, rtol=1e-5, atol=1e-5
    )


def test_outside_replica_context_the_batch_is_the_whole(rng):
    x = rng.normal(size=(4, CHANNELS)).astype(np.float32)
    with strategies.mirrored(2).scope():
        layer = keras_norms.SyncBatchNormalization(momentum=0.0)
        y = layer(tf.constant(x), training=True)
    oracles.assert_close(y, oracles.batch_norm(x, 1.0, 0.0, 1e-3)[0], "float32")
    oracles.assert_close(tf.convert_to_tensor(layer.moving_mean), x.mean(0), "float32")


def test_fit_with_a_partial_last_batch_stays_finite(rng):
    """33 samples in batches of 16 on 2 replicas leave one replica of the last step empty."""
    for kind in (keras_norms.BatchNormalization, keras_norms.SyncBatchNormalization):
        with strategies.mirrored(2).scope():
            model = keras.Sequential([keras.layers.Dense(4), kind(), keras.layers.Dense(1)])
            model.compile("sgd", "mse")
        x = rng.normal(size=(33, 5)).astype(np.float32)
        model.fit(x, x[:, :1], batch_size=16, epochs=1, verbose=0)
        for weight in model.get_weights():
            assert np.isfinite(weight).all()


def test_fit_of_a_subclassed_model(rng):
    """Keras calls its layers outside replica context once; that must not fail or warn."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras_norms.SyncBatchNormalization(momentum=0.5)
            self.head = keras.layers.Dense(1)

        def call(self, inputs, training=None):
            return self.head(self.norm(inputs, training=training))

    with strategies.mirrored(2).scope():
        model = Model()
        model.compile("sgd", "mse")
    x = rng.normal(3.0, 1.0, size=(8, 5)).astype(np.float32)
    model.fit(x, x[:, :1], batch_size=8, epochs=6, shuffle=False, verbose=0)
    moving = tf.convert_to_tensor(model.norm.moving_mean)
    exact = x.mean(0) * (1 - 0.5**6)
    # A call outside replica context, where Keras makes one, may have updated once more.
    once_more = x.mean(0) * (1 - 0.5**7)
    assert np.all(np.abs(moving - exact) <= np.abs(once_more - exact) * 1.01 + 1e-5)


@pytest.mark.parametrize("way", ["cond", "function"])
def test_rejects_a_call_where_no_collective_is_allowed(way):
    strategy = strategies.mirrored(2)
    with strategy.scope():
        layer = keras_norms.SyncBatchNormalization(name="norm_a")
        layer.build((None, CHANNELS))

    def replica(x):
        if way == "cond":
            return tf.cond(x[0, 0] > 0.0, lambda: layer(x, training=True), lambda: x)
        return tf.function(lambda x: layer(x, training=True))(x)

    with pytest.raises(RuntimeError, match="SyncBatchNormalization 'norm_a': .* a collective"):
        tf.function(lambda x: strategy.run(replica, (x,)))(tf.ones((2, CHANNELS)))


def test_rejects_a_group_size_that_does_not_divide():
    strategy = strategies.mirrored(4)
    with strategy.scope():
        layer = keras_norms.SyncBatchNormalization(group_size=3, name="norm_a")
        layer.build((None, CHANNELS))
    with pytest.raises(ValueError, match=r"'norm_a': `group_size` must divide.*with 4 replicas"):
        tf.function(lambda x: strategy.run(lambda x: layer(x, training=True), (x,)))(
            tf.ones((2, CHANNELS))
        )


def test_rejects_virtual_batches():
    with pytest.raises(ValueError, match="`virtual_batch_size` cannot be synchronized"):
        keras_norms.SyncBatchNormalization(virtual_batch_size=2)


def test_a_model_built_by_its_first_traced_step():
    """It works with Keras 2; with Keras 3, where it cannot, the layer says what to do."""
    strategy = strategies.mirrored(2)
    with strategy.scope():
        layer = keras_norms.SyncBatchNormalization(name="norm_a")
    step = tf.function(lambda x: strategy.run(lambda x: layer(x, training=True), (x,)))
    if IS_KERAS_3:
        with pytest.raises(RuntimeError, match="'norm_a': a synchronized layer must be built"):
            step(tf.ones((2, CHANNELS)))
    else:
        y = strategy.experimental_local_results(step(tf.ones((2, CHANNELS))))
        np.testing.assert_array_equal(y, np.zeros((2, 2, CHANNELS)))
