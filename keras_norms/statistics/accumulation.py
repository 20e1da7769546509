"""One update of the moving statistics for several batches, as if they were one batch.

The batches since the last update are a window. What is kept of them are the parts that replicas
exchange, so that batches merge as exactly as replicas do.
"""

import tensorflow as tf

from keras_norms.keras_weights import add_step, add_sums

CALLS = "accumulated_calls"


def add_window(layer, statistic, channels):
    """Adds the weights of an empty window: the parts of a statistic, and the number of batches."""
    for name in _names(statistic):
        setattr(layer, name, add_sums(layer, name, (channels,)))
    setattr(layer, CALLS, add_step(layer, CALLS))


def add_to_window(layer, statistic, statistics, size, enabled=None):
    """Adds a batch to the window of a layer, and begins a new one if it is the last.

    Args:
        layer: has the weights of `add_window`.
        statistic: the `Statistic` that they are of.
        statistics: those of the batch.
        size: the number of batches in a window. One in which nothing counts is counted.
        enabled: None, or a bool tensor: where it is false there is no batch.

    Returns:
        The statistics of the window with this batch, and whether it is the last, a bool scalar.
    """
    variables = [getattr(layer, name) for name in _names(statistic)]
    kept = [tf.convert_to_tensor(variable) for variable in variables]
    parts = [
        tf.broadcast_to(part, old.shape)
        for part, old in zip(statistic.parts_of(statistics), kept, strict=True)
    ]
    counts, is_call = parts[0] > 0.0, tf.constant(1, tf.int64)
    if enabled is not None:
        counts, is_call = tf.logical_and(counts, enabled), tf.cast(enabled, tf.int64)
    # Where nothing counts a mean may be NaN.
    parts = [tf.where(counts, part, tf.zeros_like(part)) for part in parts]
    merged = statistic.merge([tf.stack(pair) for pair in zip(kept, parts, strict=True)])
    calls = tf.convert_to_tensor(getattr(layer, CALLS)) + is_call
    is_last = calls >= size
    for variable, part in zip(variables, merged, strict=True):
        variable.assign(tf.where(is_last, tf.zeros_like(part), part))
    getattr(layer, CALLS).assign(tf.where(is_last, tf.zeros_like(calls), calls))
    return statistic.finish(merged), is_last


def window_weights(layer):
    """The weights of `add_window`, or none."""
    return [value for name, value in vars(layer).items() if name.startswith("accumulated_")]


def _names(statistic):
    return [f"accumulated_{name}" for name in statistic.part_names]
