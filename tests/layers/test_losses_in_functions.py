"""Losses of layers that are called in a `tf.function`, a loop or a branch inside a model."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from tests import oracles

FEATURES = 4
RULE = "'norm': its loss cannot leave the `tf.function`, `tf.cond` or loop"


def regularized():
    return keras_norms.RegularizedBatchNormalization(
        mean_weight=0.2, variance_weight=0.3, momentum=0.5, name="norm"
    )


def batchless():
    twos = keras.initializers.Constant(2.0)
    return keras_norms.BatchlessNormalization(stddev_initializer=twos, name="norm")


class Decorated(keras.layers.Layer):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    @tf.function(autograph=False)
    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)


class Branch(Decorated):
    def call(self, inputs, training=None):
        def normalized():
            return self.norm(inputs, training=training)

        return tf.cond(tf.reduce_sum(inputs) > 0.0, normalized, lambda: inputs)


class Cell(keras.layers.Layer):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.state_size, self.output_size = norm, FEATURES, FEATURES

    def call(self, inputs, states, training=None):
        y = self.norm(inputs, training=training)
        return y, [states[0] + y]


def recurrent(norm):
    return keras.layers.RNN(Cell(norm), return_sequences=True)


def unrolled(norm):
    return keras.layers.RNN(Cell(norm), return_sequences=True, unroll=True)


def batch():
    shape = (8, 3, FEATURES)
    return np.random.default_rng(0).normal(3.0, 2.0, shape).astype(np.float32)


def fitted(wrap, norm):
    is_called_on_all = wrap in (Decorated, Branch)
    norm.build((None, 3, FEATURES) if is_called_on_all else (None, FEATURES))
    model = keras.Sequential([keras.Input((3, FEATURES)), wrap(norm)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(2):
        yield lambda: model.fit(batch(), batch(), batch_size=8, verbose=0)


@pytest.mark.parametrize(
    "wrap, make",
    [(Decorated, regularized), (recurrent, batchless), (Branch, regularized)],
)
def test_a_loss_that_would_cross_a_function_is_an_error(wrap, make):
    """Also when it is tried again, with what TensorFlow has traced before."""
    for fit in fitted(wrap, make()):
        with pytest.raises(RuntimeError, match=RULE):
            fit()


def test_a_first_call_outside_of_the_training_step_is_an_error_as_well():
    """The step would find the function traced, and train without the loss."""
    model = Decorated(regularized())
    model(batch())
    with pytest.raises(RuntimeError, match=RULE):
        model(batch(), training=True)


@pytest.mark.parametrize("within", [False, True], ids=["eager", "traced"])
def test_a_loss_that_is_read_outside_of_its_function_is_an_error(within):
    layer = regularized()
    layer.build((None, FEATURES))
    call = tf.function(layer, autograph=False)

    def read():
        call(tf.ones((8, FEATURES)), training=True)
        return list(layer.losses)

    for _ in range(2):
        with pytest.raises(RuntimeError, match=RULE):
            tf.function(read, autograph=False)() if within else read()


def test_a_function_may_return_the_loss():
    """Then it is read inside, and has a gradient outside."""

    def gradients(wrap):
        layer = regularized()
        layer.build((None, FEATURES))
        call = wrap(lambda x: (layer(x, training=True), layer.losses[0]))

        @wrap
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y, loss = call(x)
                total = tf.reduce_sum(y**3) + 5.0 * loss
            return tape.gradient(total, x)

        return step(tf.constant(batch()[:, 0]))

    actual = gradients(lambda f: tf.function(f, autograph=False))
    oracles.assert_close(actual, gradients(lambda f: f), terms=8)


def test_a_loss_trains_in_a_loop_that_is_unrolled():
    norm = batchless()
    for fit in fitted(unrolled, norm):
        fit()
    assert np.abs(norm.mean).min() > 0.0


def test_layers_without_a_loss_may_be_called_in_a_function():
    norm = keras_norms.BatchNormalization(momentum=0.5)
    for fit in fitted(Decorated, norm):
        fit()
    oracles.assert_close(norm.moving_mean, 0.75 * batch().mean((0, 1)))
