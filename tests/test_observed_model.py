"""`ObservedModel`: it keeps no graphs, and works after failures."""

import copy
import gc
import pickle
import types

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.diagnostics import StatisticsReference, training_inference_discrepancy
from keras_norms.keras_api import IS_KERAS_3, keras

X = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)


@pytest.fixture
def graphs():
    """Counts the graphs that the test has made and that still exist."""

    def count():
        gc.collect()
        return sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())

    gc.freeze()  # What other tests have made is left alone, which saves seconds.
    yield count
    gc.unfreeze()


def test_no_graph_of_a_stock_model_is_kept(graphs):
    layers = [keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    found = []
    for _ in range(4):
        training_inference_discrepancy(model, X, verbose=0)
        StatisticsReference.of(model, X, verbose=0).compare(model, X, verbose=0)
        found.append(graphs())
    assert found[3] == found[1], found


def test_repeated_comparisons_share_one_graph(graphs):
    """In one graph, though TensorFlow keeps each that our layers are traced in."""
    layers = [keras_norms.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    reference = StatisticsReference.of(model, X, verbose=0)
    found = []
    for _ in range(4):
        reference.compare(model, X, verbose=0)
        found.append(graphs())
    assert found[3] == found[0], found
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    for copied in (pickle.loads(pickle.dumps(reference)), copy.deepcopy(reference), reference):
        assert copied.compare(other, X, verbose=0).average == 0.0


@pytest.mark.parametrize(
    "normalization", [keras_norms.BatchNormalization, keras_norms.BatchRenormalization]
)
def test_a_model_that_differentiates_inside(normalization):
    class Penalised(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = normalization(), keras.layers.BatchNormalization(name="last")

        def call(self, inputs, training=False):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                loss = tf.reduce_sum(self.first(inputs, training=training) ** 3)
            self.seen = tape.gradient(loss, inputs)
            return self.last(self.seen, training=training)

    model = Penalised()
    model(tf.constant(X), training=True)
    gradient = model.seen.numpy()
    model(tf.constant(X))
    in_inference = model.seen.numpy()
    reference = StatisticsReference.of(model, X, verbose=0)
    np.testing.assert_allclose(reference.layers["last"]["mean"], in_inference.mean(0), atol=1e-5)
    stddev = np.sqrt(model.last.moving_variance)
    gap = np.linalg.norm(gradient.std(0) - stddev) / np.linalg.norm(stddev)
    found = training_inference_discrepancy(model, X, verbose=0)
    np.testing.assert_allclose(found["last"].variance, gap, rtol=1e-3)


def test_data_of_another_structure_or_rank_is_traced_again():
    class Either(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()
            self.norm.build((None, 3))

        def call(self, inputs, training=None):
            x = inputs["x"] if isinstance(inputs, dict) else inputs
            return self.norm(tf.reshape(x, (-1, 3)), training=training)

    model = Either()
    reference = StatisticsReference.of(model, X, verbose=0)
    for data in (X, {"x": X}, X.reshape(4, 3, 3), X):
        np.testing.assert_allclose(reference.compare(model, data, verbose=0).average, 0, atol=1e-6)


def test_a_callback_works_after_data_that_does_not_fit():
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="norm")])
    model.compile("sgd", "mse")
    reference = StatisticsReference.of(model, X, verbose=0)
    data = [X, np.ones((4, 5), np.float32)]
    which = types.SimpleNamespace(now=1)

    class Batches:
        def __iter__(self):
            return iter([data[which.now]])

    drift = keras_norms.callbacks.StatisticsDrift(reference, Batches())
    for _ in range(2):
        with pytest.raises(ValueError, match="incompatible|expected"):
            model.evaluate(X, X, verbose=0, callbacks=[drift])
    which.now = 0
    model.evaluate(X, X, verbose=0, callbacks=[drift])
    assert drift.history[0].average < 1e-6


def test_subclasses_with_other_argument_names():
    class Named(keras.layers.BatchNormalization):
        def call(self, x, training=None, mask=None):
            return super().call(x, training=training)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = Named(name="norm")

        def call(self, inputs, training=None):
            return self.norm(x=inputs, training=training) if IS_KERAS_3 else self.norm(inputs)

    class Starred(keras.layers.BatchNormalization):
        def call(self, *args, **kwargs):
            return super().call(*args, **kwargs)

    starred = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="norm")])
    starred.layers[-1].__class__ = Starred
    found = training_inference_discrepancy(starred, X, verbose=0)
    np.testing.assert_allclose(
        found["norm"].mean, np.linalg.norm(X.mean(0)) / np.sqrt(3), rtol=1e-5
    )
    found = training_inference_discrepancy(Model(), X, verbose=0)
    expected = np.linalg.norm(X.mean(0)) / np.sqrt(3)
    np.testing.assert_allclose(found["norm"].mean, expected, rtol=1e-5)


def test_ignores_other_layers_with_moving_averages():
    class Averaged(keras.layers.Layer):
        momentum = 0.9

        def build(self, shape):
            self.moving_mean = self.add_weight(name="mean", shape=shape[-1:], trainable=False)
            self.moving_variance = self.add_weight(name="var", shape=shape[-1:], trainable=False)
            self.built = True

        def call(self, inputs):
            return inputs - tf.convert_to_tensor(self.moving_mean)

    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((3,)), Averaged(), norm])
    assert list(training_inference_discrepancy(model, X, verbose=0)) == ["norm"]


def test_a_model_that_does_not_run_its_layers():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()
            self.norm.build((None, 3))

        def call(self, inputs, training=None):
            return inputs

    with pytest.raises(ValueError, match="must run a layer with batch statistics"):
        StatisticsReference.of(Model(), X, verbose=0)


def test_reads_no_more_batches_than_needed():
    read = []

    class Batches:
        def __iter__(self):
            for number in range(9):
                read.append(number)
                yield X

    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    training_inference_discrepancy(model, Batches(), steps=2, verbose=0)
    assert max(read) == 1
