"""Strategies over logical CPU devices, and a way to give each replica its own input."""

import functools

import numpy as np
import tensorflow as tf


@functools.cache
def mirrored(replicas):
    """One strategy per size. Strategies that start at the same collective key abort each other."""

    class Mirrored(tf.distribute.MirroredStrategy):
        _collective_key_base = 100_000 * replicas

    return Mirrored([f"CPU:{i}" for i in range(replicas)])


def distribute(strategy, values):
    """`values[r]` for replica r."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group]
    )


def run(strategy, function, *arguments):
    """Runs a traced function with one argument list entry a replica; results as NumPy lists."""
    distributed = [distribute(strategy, values) for values in arguments]
    results = strategy.run(function, args=tuple(distributed))
    return tf.nest.map_structure(
        lambda value: [np.asarray(v) for v in strategy.experimental_local_results(value)], results
    )
