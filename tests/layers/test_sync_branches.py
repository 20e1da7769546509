"""Layers of parallel branches compute what they do one by one, with the collectives of one."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from keras_norms.statistics import replicas
from tests import strategies

CHANNELS = (2, 3, 5)


def made(kinds=(keras_norms.SyncBatchNormalization,) * 3, **options):
    layers = []
    for i, (kind, channels) in enumerate(zip(kinds, CHANNELS, strict=True)):
        gamma = keras.initializers.RandomNormal(1.0, 0.3, seed=i)
        common = dict(dtype="float64", momentum=0.5, gamma_initializer=gamma, name=f"branch_{i}")
        common |= {} if kind is keras_norms.SyncBatchNormalization else dict(synchronized=True)
        layers.append(kind(**common, **options))
        layers[-1].build((None, channels))
    return layers


def parameters(layers):
    return [
        getattr(w, "value", w) if hasattr(w, "path") else w
        for layer in layers
        for w in (layer.gamma, layer.beta)
    ]


def step(strategy, layers, call, xs):
    """Outputs, gradients, second-order gradients, moving statistics and collectives a replica."""

    def of_replica(*xs):
        with tf.GradientTape() as second:
            second.watch(xs)
            with tf.GradientTape() as tape:
                tape.watch(xs)
                ys = call(list(xs))
                loss = tf.add_n([tf.reduce_sum(y**3) for y in ys])
            gradients = tape.gradient(loss, [*xs, *parameters(layers)])
            of_x = tf.add_n([tf.reduce_sum(g**2) for g in gradients[: len(xs)]])
        return ys, gradients, second.gradient(of_x, xs)

    def first_order(*xs):
        with tf.GradientTape() as tape:
            tape.watch(xs)
            loss = tf.add_n([tf.reduce_sum(y**3) for y in call(list(xs))])
        return tape.gradient(loss, xs)

    values = [strategies.distribute(strategy, list(map(tf.constant, x))) for x in xs]
    run = tf.function(lambda *xs: strategy.run(of_replica, xs), autograph=False)
    local = strategy.experimental_local_results
    found = [np.concatenate([np.ravel(v) for v in local(r)]) for r in tf.nest.flatten(run(*values))]
    found += [np.asarray(tf.convert_to_tensor(w)) for layer in layers for w in layer.weights]
    once = tf.function(lambda *xs: strategy.run(first_order, xs), autograph=False)
    graph = once.get_concrete_function(*values).graph
    kinds = [op.type for op in graph.get_operations()]
    collectives = sum(kind.startswith("CollectiveReduce") for kind in kinds)
    return found, collectives / strategy.num_replicas_in_sync


def assert_the_same(strategy, rng, collectives, kinds=(keras_norms.SyncBatchNormalization,) * 3):
    sizes = [(4, 3, 0, 5)[r] for r in range(strategy.num_replicas_in_sync)]
    xs = [[rng.normal(3.0, 2.0, (n, c)) for n in sizes] for c in CHANNELS]
    with strategy.scope():
        apart, together = made(kinds), made(kinds)
        joint = keras_norms.SyncBranches(together)

    def one_by_one(xs):
        return [layer(x, training=True) for layer, x in zip(apart, xs, strict=True)]

    expected, _ = step(strategy, apart, one_by_one, xs)
    actual, found = step(strategy, together, lambda xs: joint(xs, training=True), xs)
    assert found == collectives
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, 1e-9, 1e-10)


def test_three_layers_have_the_exchanges_of_one(native, rng):
    assert_the_same(strategies.mirrored(4), rng, collectives=2)


def test_above_the_limit_of_slots_too(native, rng, monkeypatch):
    monkeypatch.setattr(replicas, "SLOTS", 1)
    assert_the_same(strategies.mirrored(2), rng, collectives=3)


@pytest.mark.main_leg
def test_other_layers_are_called_one_by_one(rng):
    kinds = [keras_norms.SyncBatchNormalization] * 2 + [keras_norms.BatchRenormalization]
    assert_the_same(strategies.mirrored(2), rng, collectives=6, kinds=kinds)


def test_in_a_model_that_is_trained_and_saved(rng, tmp_path):
    with strategies.mirrored(2).scope():
        inputs = keras.Input((4,))
        branches = [keras.layers.Dense(n)(inputs) for n in (2, 3)]
        norms = [keras_norms.SyncBatchNormalization() for _ in range(2)]
        x = keras.layers.Concatenate()(keras_norms.SyncBranches(norms)(branches))
        model = keras.Model(inputs, keras.layers.Dense(1)(x))
        model.compile("sgd", "mse")
    data = rng.normal(size=(16, 4)).astype(np.float32)
    model.fit(data, data[:, :1], batch_size=8, epochs=2, verbose=0)
    assert len(model.trainable_variables) == 10 and len(model.variables) >= 14
    assert np.abs(np.asarray(tf.convert_to_tensor(norms[1].moving_mean))).max() > 0.0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    # On one device instead of two, so `Dense` multiplies matrices of other sizes and rounds anew.
    expected = model.predict(data, verbose=0)
    np.testing.assert_allclose(loaded.predict(data, verbose=0), expected, rtol=1e-5, atol=1e-6)
    for kept, weight in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(weight))


def sync(**options):
    return keras_norms.SyncBatchNormalization(**options)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [sync()], "`layers` must be a list of at least two layers with synchronized"),
        (lambda: sync(), "`layers` must be a list of at least two layers with synchronized"),
        (lambda: [sync(), keras.layers.Dense(1)], "a list of at least two layers with synch"),
        (lambda: [sync(), keras_norms.BatchNormalization()], "at least two layers with synch"),
        (lambda: [sync(), sync(group_size=2)], "must all have the same `group_size`"),
        (lambda: [sync()] * 2, "and each of them its own variables"),
    ],
)
def test_bad_layers(layers, message):
    with pytest.raises(ValueError, match=f"SyncBranches '.*': .*{message}"):
        keras_norms.SyncBranches(layers())


def test_bad_inputs():
    layer = keras_norms.SyncBranches([sync(), sync()])
    with pytest.raises(ValueError, match="`inputs` must be a list of 2 activations, one for each"):
        layer([tf.ones((2, 2))] * 3)
    with pytest.raises(ValueError, match="`inputs` must be a list of 2 activations, one for each"):
        layer(tf.ones((2, 2)))
