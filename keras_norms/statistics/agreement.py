"""A checksum in each exchange, by which replicas notice that they are not at the same place.

Processes that build different models, or lose step, would exchange statistics of different layers,
and every result would be wrong without an error. With the checks on, each replica sends along

    layer    a number for the layer's name and the size of its group
    call     how often the layer has exchanged statistics in this process
    total    the sum of what it sends, and the sum of the absolute values, for rounding

and compares them with its own, or with what arrived.
"""

import collections
import itertools
import zlib

import numpy as np
import tensorflow as tf

from keras_norms.ops.host_calls import may_call_python
from keras_norms.statistics.exchange_order import replica_number

_is_on = [False]
_calls: dict = collections.defaultdict(itertools.count)


def set_replica_checks(enabled):
    """Switches checks of every exchange of statistics between replicas on or off.

    With them on, a step ends with `tf.errors.InvalidArgumentError`, which names the layer, where
    replicas exchange statistics of different layers, have made different numbers of steps, or do
    not receive what was sent. Layers are told apart by name, so the model has to be built in the
    same way in every process, or its layers need names. The choice acts when a layer is traced.
    Steps are counted from this call on: after a step that has failed, call it again.

    Use it when you bring a program up on several machines, or suspect one of them. It is off by
    default, since every exchange gets longer by four numbers and some small operations. Programs
    that XLA compiles have no checks.

    Args:
        enabled: a bool.

    Raises:
        ValueError: if `enabled` is not a bool.

    Example:

    >>> keras_norms.set_replica_checks(True)
    >>> keras_norms.set_replica_checks(False)
    """
    if not isinstance(enabled, bool):
        raise ValueError(f"set_replica_checks: `enabled` must be a bool. Received: {enabled!r}.")
    _is_on[0] = enabled
    _calls.clear()


def signed_row(packed, members, owner):
    """A vector to be gathered with its checksum, and the function that takes it off the rows."""
    if not _checks(packed):
        return packed, lambda rows: rows
    own = _signature(packed, members, owner, "forward")

    def unsigned(rows):
        payload, layers, calls, *totals = tf.split(rows, [packed.shape[0], 1, 1, 1, 1], 1)
        arrived = _arrived(tf.reduce_sum(payload, 1, keepdims=True), *totals)
        return _checked(payload, owner, layers == own[0], calls == own[1], arrived)

    return tf.concat([packed, own], 0), unsigned


def signed_summand(packed, members, owner):
    """A vector to be summed with its checksum, and the function that takes it off the sum."""
    if not _checks(packed):
        return packed, lambda total: total
    own = _signature(packed, members, owner, "backward")

    def unsigned(total):
        payload, layer, call, *totals = tf.split(total, [packed.shape[0], 1, 1, 1, 1])
        same = [found == members * value for found, value in ((layer, own[0]), (call, own[1]))]
        arrived = _arrived(tf.reduce_sum(payload), *totals)
        return _checked(payload, owner, *same, arrived)

    return tf.concat([packed, own], 0), unsigned


def _checks(packed):
    """Whether to check; numbers of layers are exact in float64 only, which statistics have."""
    is_vector = packed.shape.rank == 1 and packed.dtype == tf.float64
    return _is_on[0] and is_vector and may_call_python()


def _signature(packed, members, owner, way):
    number = zlib.crc32(f"{owner} {members} {way}".encode())
    layer = tf.constant([float(number)], packed.dtype)
    totals = [tf.reduce_sum(packed), tf.reduce_sum(tf.abs(packed))]
    return tf.concat([layer, [_count_call(owner, members, way)], totals], 0)


def _count_call(owner, members, way):
    """The number of this call on this replica. It is no variable: custom gradients refuse those."""
    key = owner, members, tf.distribute.get_strategy(), way, replica_number()
    number = tf.numpy_function(lambda: np.float64(next(_calls[key])), [], tf.float64)
    return tf.ensure_shape(number, [])


def _arrived(found, total, magnitude):
    """Whether sums agree up to rounding, or are not finite: such values are no damage."""
    near = tf.abs(found - total) <= 1e-9 * magnitude
    return tf.logical_or(near, tf.logical_not(tf.math.is_finite(magnitude)))


def _checked(payload, owner, *holds):
    rules = (
        "replicas must exchange statistics of the same layer in groups of the same size",
        "replicas must make the same number of steps",
        "what a replica sends must arrive unchanged",
    )
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(hold), [f"{owner}: {rule}. Received, 1 for each that does:", hold]
        )
        for rule, hold in zip(rules, holds, strict=True)
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(payload)
