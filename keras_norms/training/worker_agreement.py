"""Whether the workers of a strategy do the same, asked before the first step mixes them up."""

import json
import zlib

import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.printable import called
from keras_norms.statistics.replicas import ReplicaGroup
from keras_norms.training.cluster import addresses_of


def number_of(model, *others):
    """A number for the weights of a model, and for others that JSON holds or `str` tells apart."""
    # Keras 2 puts the names of layers before those of weights, numbered within a process.
    weights = [[w.name.rpartition("/")[2], str(w.shape), str(w.dtype)] for w in model.weights]
    return zlib.crc32(json.dumps([weights, *others], default=str).encode())


def check_same_model(model, arguments, strategy, owner):
    """Raises ValueError in every worker unless all have the same layers and arguments."""
    number = number_of(model, [called(layer) for layer in model.layers], arguments)
    check_same(
        [number], "the model, in the same order of layers, and the arguments", strategy, owner
    )


def check_same(numbers, what, strategy, owner):
    """Raises ValueError in every worker unless all call it with the same numbers."""
    workers = len(addresses_of(strategy))
    if workers < 2:
        return

    @tf.function(autograph=False)
    def gathered():
        own = tf.constant(numbers, tf.float64)
        rows = strategy.run(lambda: ReplicaGroup(owner=owner).gather([own])[0])
        return strategy.experimental_local_results(rows)[0]

    rows = gathered().numpy()
    of_worker = len(rows) // workers
    differ = sorted({i // of_worker for i, row in enumerate(rows) if (row != rows[0]).any()})
    require(not differ, owner, f"all workers must agree on {what}", workers_unlike_worker_0=differ)
