"""The weights of a layer, where Keras 2 and 3 create them differently."""

import tensorflow as tf

from keras_norms.keras_api import IS_KERAS_3, keras


def state_dtype(layer):
    """float32 under every dtype policy but float64: half precision cannot hold statistics."""
    return "float64" if layer.variable_dtype == "float64" else "float32"


def add_parameter(layer, name, shape, **options):
    """A trainable weight that autocasting leaves alone."""
    autocast = {"autocast": False} if IS_KERAS_3 else {"experimental_autocast": False}
    return layer.add_weight(
        name=name, shape=shape, dtype=state_dtype(layer), trainable=True, **autocast, **options
    )


def add_record(layer, name, shape, dtype):
    """A weight that no training call changes, the same on all replicas. It begins with zeros."""
    autocast = {"autocast": False} if IS_KERAS_3 else {"experimental_autocast": False}
    return layer.add_weight(
        name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False, **autocast
    )


def add_step(layer, name):
    """An integer that counts the training calls of each replica; the first one's is saved."""
    return _add_state(layer, name, (), "int64", "zeros", "only_first_replica")


def add_moving_statistic(layer, name, shape, initializer):
    """A weight that each replica updates for itself and that reads as the mean over replicas.

    Without that, replicas drift apart and only the first one's statistics are saved.
    """
    return _add_state(layer, name, shape, state_dtype(layer), initializer, "mean")


def add_sums(layer, name, shape):
    """Float64 sums that each replica keeps for itself, and that read as the mean over replicas.

    Whatever the dtype of the moving statistics: what they are to be exact sums of is not rounded.
    """
    return _add_state(layer, name, shape, "float64", "zeros", "mean")


def _add_state(layer, name, shape, dtype, initializer, aggregation):
    """A weight that is not trained and has a value of its own on each replica.

    Keras 3 offers it on `keras.Variable` only, which the layer tracks once it is an attribute.
    """
    options = dict(name=name, shape=shape, dtype=dtype, trainable=False)
    if IS_KERAS_3:
        return keras.Variable(
            initializer,
            autocast=False,
            synchronization="on_read",
            aggregation=aggregation,
            **options,
        )
    return layer.add_weight(
        initializer=initializer,
        experimental_autocast=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=getattr(tf.VariableAggregation, aggregation.upper()),
        **options,
    )
