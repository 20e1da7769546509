"""Networks and data that processes of a cluster and the test that starts them share."""

import numpy as np
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras

GLOBAL_BATCH = 12
STEPS = 20


# Where the rows of four replicas begin: 3, 2, 3 and none.
SPLIT = [3, 5, 8]


def rows():
    """Rows and gradients of a layer that four replicas share unevenly."""
    rng = np.random.default_rng(4)
    return rng.normal(3.0, 2.0, (8, 2)), rng.normal(size=(8, 2))


def data(dtype, examples=GLOBAL_BATCH * STEPS):
    rng = np.random.default_rng(3)
    x = rng.normal(2.0, 3.0, (examples, 6))
    y = np.tanh(x[:, :2]) + 0.1 * rng.normal(size=(examples, 2))
    return x.astype(dtype), y.astype(dtype)


def dataset(dtype, batch=GLOBAL_BATCH, **options):
    return tf.data.Dataset.from_tensor_slices(data(dtype, **options)).batch(batch)


def same(epoch):
    """The same batches in each epoch."""
    del epoch
    x, y = data("float64")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(GLOBAL_BATCH, drop_remainder=True)


def shuffled(epoch):
    """Batches whose order depends on nothing but the epoch."""
    x, y = data("float64")
    order = np.random.default_rng(epoch).permutation(len(x))
    examples = tf.data.Dataset.from_tensor_slices((x[order], y[order]))
    return examples.batch(GLOBAL_BATCH, drop_remainder=True)


def compiled(strategy, dtype, skip_nonfinite=False, jit_compile=False):
    """Three parallel branches with synchronized layers, then one more, with losses of layers."""
    keras.utils.set_random_seed(1)
    options = dict(dtype=dtype, synchronized=True, momentum=0.9)
    options |= dict(skip_nonfinite_updates=skip_nonfinite)
    kinds = {
        "plain": keras_norms.BatchNormalization(name="plain", **options),
        "renorm": keras_norms.BatchRenormalization(name="renorm", **options),
        "regularized": keras_norms.RegularizedBatchNormalization(
            name="regularized", mean_weight=0.01, **options
        ),
    }
    with strategy.scope():
        inputs = keras.Input((6,), dtype=dtype)
        branches = [
            norm(keras.layers.Dense(8, name=f"dense_{name}", dtype=dtype)(inputs))
            for name, norm in kinds.items()
        ]
        x = keras.layers.Concatenate(dtype=dtype)(branches)
        x = keras.layers.Activation("tanh", dtype=dtype)(x)
        x = keras_norms.SyncBatchNormalization(name="last", dtype=dtype)(x)
        outputs = keras.layers.Dense(2, kernel_regularizer="l2", dtype=dtype, name="head")(x)
        model = keras.Model(inputs, outputs)
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        model.compile(optimizer, "mse", metrics=["mae"], jit_compile=jit_compile)
    return model


def weights_of(model):
    return {str(i): np.asarray(w) for i, w in enumerate(model.get_weights())}


def assert_equal_weights(actual, expected, rtol):
    assert len(expected) == len(actual.keys())
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol, atol=rtol, err_msg=name)
