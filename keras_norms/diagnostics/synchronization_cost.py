"""What the exchanges of a synchronized layer cost on this machine."""

import functools
import time

import numpy as np
import tensorflow as tf

from keras_norms.statistics.replicas import ReplicaGroup

_ROUNDS = 30


def synchronization_cost(channels, replicas):
    """The seconds that the exchanges of one training step take, by number of channels.

    Forward they are one all-reduce of count, mean and sum of squares of each channel, backward one
    of two sums. They are measured by a step with them and one without, in turns.

    Args:
        channels: numbers of channels.
        replicas: how many devices exchange: GPUs if there are that many, else CPU devices.

    Returns:
        A dict of the median differences, and why it is empty, or "".
    """
    if replicas == 1:
        return dict.fromkeys(channels, 0.0), ""
    devices = next(
        (
            found[:replicas]
            for kind in ("GPU", "CPU")
            if len(found := tf.config.list_logical_devices(kind)) >= replicas
        ),
        None,
    )
    if devices is None:
        return {}, f"not measured, since TensorFlow has fewer than {replicas} devices here"
    if tf.distribute.has_strategy():
        return {}, "not measured, since a strategy is in use"
    strategy = _strategy(tuple(device.name for device in devices))
    return {size: _seconds(strategy, size) for size in channels}, ""


@functools.cache
def _strategy(devices):
    """A strategy that leaves those of the user alone.

    Strategies of different sizes that begin at the same key of collectives abort each other.
    """

    class Mirrored(tf.distribute.MirroredStrategy):
        _collective_key_base = 10_000_000 + 1000 * len(devices)

    return Mirrored(list(devices))


def _seconds(strategy, channels):
    group = ReplicaGroup(None, "advise")

    def exchanging(vector):
        count, mean, m2 = group.gather([vector[:1], vector, vector])
        sums = group.sum([mean[0], m2[0]])
        return tf.reduce_sum(sums) + tf.reduce_sum(count)

    def alone(vector):
        return tf.reduce_sum(vector)

    vector = tf.ones([channels], tf.float64)
    steps = [
        tf.function(lambda f=function: strategy.run(f, args=(vector,)), autograph=False)
        for function in (exchanging, alone)
    ]
    seconds = np.array([[_time(step) for step in steps] for _ in range(3 + _ROUNDS)])[3:]
    return max(float(np.median(seconds[:, 0] - seconds[:, 1])), 0.0)


def _time(step):
    start = time.perf_counter()
    for value in tf.nest.flatten(step()):
        getattr(value, "values", [value])[0].numpy()
    return time.perf_counter() - start
