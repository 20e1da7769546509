"""With tensorflow-addons, on the TensorFlow where it still imports."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_addons as tfa

import keras_norms
from keras_norms.keras_api import keras
from tests import oracles

KINDS = [keras_norms.BatchNormalization, keras_norms.SyncBatchNormalization]


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
