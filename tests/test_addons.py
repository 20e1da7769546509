"""With tensorflow-addons, on the TensorFlow where it still imports."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_addons as tfa

import keras_norms
from keras_norms.keras_api import keras
from tests import oracles
from tests.test_examples import EXAMPLES, finished

KINDS = [keras_norms.BatchNormalization, keras_norms.SyncBatchNormalization]
# Each optimizer that averages, with one of the layers.
AVERAGED = [
    (tfa.optimizers.SWA, dict(start_averaging=4, average_period=4), KINDS[0]),
    (tfa.optimizers.MovingAverage, dict(average_decay=0.9), KINDS[1]),
]


def normalizing(kind):
    """Two layers of ours; what the last one receives depends on the statistics of the first."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(8, "softplus", name="entry"),
        kind(momentum=0.9, name="first"),
        keras.layers.Dense(6, "softplus", name="hidden"),
        kind(momentum=0.9, name="last"),
        keras.layers.Dense(1, name="exit"),
    ]
    return keras.Sequential([keras.Input((4,)), *layers])


@pytest.fixture
def data(rng):
    x = rng.normal(5.0, 3.0, (64, 4)).astype(np.float32)
    return x, np.sin(x[:, :1])


@pytest.mark.parametrize("kind", KINDS)
def test_training_with_lamb(kind, rng):
    keras.utils.set_random_seed(1)
    x = rng.normal(5.0, 3.0, (64, 4)).astype(np.float32)
    y = (x[:, :1] > 5.0).astype(np.float32)
    model = keras.Sequential([keras.layers.Dense(8), kind(momentum=0.9), keras.layers.Dense(1)])
    model.compile(tfa.optimizers.LAMB(0.02), keras.losses.BinaryCrossentropy(from_logits=True))
    history = model.fit(x, y, batch_size=16, epochs=20, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0]
    for weight in model.get_weights():
        assert np.isfinite(weight).all()


def test_lamb_leaves_alone_what_is_excluded(rng):
    """As if told when it was made: no decay, and no adaptation of the rate to the weight's norm."""
    model = normalizing(keras_norms.BatchNormalization)
    told = tfa.optimizers.LAMB(0.1, weight_decay=0.5)
    excluded = keras_norms.exclude_from_weight_decay(told, model)
    assert len(excluded) == 4
    for weight in excluded:
        weight.assign(np.full(weight.shape, 3.0))
    start, weights = model.get_weights(), model.trainable_weights
    gradients = [rng.normal(size=weight.shape).astype(np.float32) for weight in weights]
    for optimizer in (told, tfa.optimizers.LAMB.from_config(told.get_config())):
        model.set_weights(start)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        for weight, gradient in zip(weights, gradients, strict=True):
            if any(weight is one for one in excluded):
                # Its first step is the sign of the gradient, up to its epsilon.
                np.testing.assert_allclose(weight, 3.0 - 0.1 * np.sign(gradient), rtol=1e-4)


def test_lamb_keeps_what_it_was_told_before():
    told = dict(exclude_from_weight_decay=["bias"], exclude_from_layer_adaptation=["kernel"])
    optimizer = tfa.optimizers.LAMB(**told)
    keras_norms.exclude_from_weight_decay(optimizer, normalizing(KINDS[0]))
    assert optimizer.exclude_from_weight_decay[0] == "bias"
    assert optimizer.exclude_from_layer_adaptation == ["kernel"]


@pytest.mark.parametrize("kind", KINDS)
def test_weight_normalization_says_that_it_needs_a_kernel(kind):
    with pytest.raises(ValueError, match="must wrap a layer that contains a `kernel`"):
        keras.Sequential([keras.Input((4,)), tfa.layers.WeightNormalization(kind())])


@pytest.mark.parametrize("kind", KINDS)
def test_inside_weight_normalization(kind, rng):
    """The wrapper needs a kernel, so it holds a block of a dense layer and the norm after it."""

    class Block(keras.layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.norm = kind(momentum=0.0)

        def call(self, inputs, training=None):
            return self.norm(super().call(inputs), training=training)

    x = rng.normal(2.0, 3.0, (32, 4)).astype(np.float32)
    block = Block(3)
    model = keras.Sequential([tfa.layers.WeightNormalization(block, data_init=False)])
    model.build((None, 4))
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((32, 3), np.float32), batch_size=32, epochs=1, verbose=0)
    assert len(block.norm.trainable_variables) == 2
    model.fit(x, np.zeros((32, 3), np.float32), batch_size=32, epochs=1, verbose=0)
    y = model(x, training=True).numpy()
    oracles.assert_close(y.mean(0), np.asarray(block.norm.beta), "float32", scale=1.0)
    assert np.isfinite(tf.convert_to_tensor(block.norm.moving_variance)).all()


def test_after_weight_normalization(data):
    """A step and recomputing both store the statistics of outputs with kernels of norm `g`."""
    wrapped = tfa.layers.WeightNormalization(keras.layers.Dense(3), data_init=False)
    norm = keras_norms.BatchNormalization(momentum=0.0)
    model = keras.Sequential([keras.Input((4,)), wrapped, norm])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(data[0], np.zeros((64, 3)), batch_size=64, verbose=0)
    v, g = (np.asarray(w).astype(np.float64) for w in (wrapped.v, wrapped.g))
    y = data[0] @ (g * v / np.linalg.norm(v, axis=0)) + np.asarray(wrapped.layer.bias)
    _, mean, variance = oracles.moments(y)
    oracles.assert_close(norm.moving_mean, np.ravel(mean), "float32", 64)
    oracles.assert_close(norm.moving_variance, np.ravel(variance), "float32", 64)
    norm.moving_mean.assign([7.0, 8.0, 9.0])
    norm.moving_variance.assign([7.0, 8.0, 9.0])
    keras_norms.recompute_statistics(model, data[0], batch_size=16, verbose=0)
    oracles.assert_close(norm.moving_mean, np.ravel(mean), "float32", 64)
    oracles.assert_close(norm.moving_variance, np.ravel(variance), "float32", 64)


def population_statistics(model, x):
    """Mean and variance of each layer over all of `x`, and the outputs with them, in NumPy."""
    found, y = {}, x.astype(np.float64)
    for layer in model.layers:
        weights = [weight.astype(np.float64) for weight in layer.get_weights()]
        if isinstance(layer, keras.layers.Dense):
            y = y @ weights[0] + weights[1]
            y = y if layer.name == "exit" else np.logaddexp(0.0, y)
        else:
            gamma, beta = weights[:2]
            _, mean, variance = oracles.moments(y)
            found[layer.name] = np.ravel(mean), np.ravel(variance)
            y = gamma * (y - mean) / np.sqrt(variance + layer.epsilon) + beta
    return found, y


def moving_statistics(model):
    layers = [model.get_layer(name) for name in ("first", "last")]
    return [np.array(v) for layer in layers for v in (layer.moving_mean, layer.moving_variance)]


def assert_has_population_statistics(model, x):
    expected, outputs = population_statistics(model, x)
    for name, (mean, variance) in expected.items():
        layer = model.get_layer(name)
        oracles.assert_close(layer.moving_mean, mean, "float32", terms=len(x))
        oracles.assert_close(layer.moving_variance, variance, "float32", terms=len(x))
    oracles.assert_close(model.predict(x, verbose=0), outputs, "float32", terms=len(x))


@pytest.mark.parametrize(("average", "options", "kind"), AVERAGED)
def test_statistics_of_averaged_weights(average, options, kind, data):
    """Averaging leaves the moving statistics to the last weights; recomputing takes their own."""
    model = normalizing(kind)
    optimizer = average("sgd", **options)
    optimizer.learning_rate = 0.2
    model.compile(optimizer, "mse")
    model.fit(*data, batch_size=16, epochs=5, verbose=0)
    last, statistics = np.array(model.get_layer("entry").kernel), moving_statistics(model)
    optimizer.assign_average_vars(model.trainable_weights)
    assert not np.allclose(last, model.get_layer("entry").kernel, atol=1e-3)
    for before, after in zip(statistics, moving_statistics(model), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(AssertionError, match="exceeds the tolerance"):
        assert_has_population_statistics(model, data[0])
    keras_norms.recompute_statistics(model, data[0], batch_size=16, sequential=True, verbose=0)
    assert_has_population_statistics(model, data[0])


@pytest.mark.parametrize("update_weights", [False, True])
def test_statistics_of_average_model_checkpoints(update_weights, data, tmp_path):
    """A file holds averaged weights beside the moving statistics of the last ones."""
    path = str(tmp_path / "averaged.keras")
    checkpoint = tfa.callbacks.AverageModelCheckpoint(update_weights, path)
    model = normalizing(keras_norms.BatchNormalization)
    model.compile(tfa.optimizers.SWA("sgd", 0, 2), "mse")
    model.fit(*data, batch_size=16, epochs=3, verbose=0, callbacks=[checkpoint])
    averaged = keras.models.load_model(path)
    kernel, other = (m.get_layer("entry").get_weights()[0] for m in (model, averaged))
    assert np.array_equal(kernel, other) == update_weights
    for before, after in zip(moving_statistics(model), moving_statistics(averaged), strict=True):
        np.testing.assert_array_equal(before, after)
    keras_norms.recompute_statistics(averaged, data[0], batch_size=64, verbose=0)
    assert_has_population_statistics(averaged, data[0])


def test_the_example_runs():
    output = finished(EXAMPLES / "addons_swa.py", "--smoke")
    for weights in ("last", "averaged"):
        for statistics in ("of training", "recomputed"):
            assert re.search(rf"│ {weights} +│ {statistics} +│ \d+\.\d +│", output)
