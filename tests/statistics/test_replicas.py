"""The exchange between replicas: what arrives, in groups, with which collectives."""

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.statistics.replicas import ReplicaGroup
from tests import strategies

pytestmark = pytest.mark.each_tensorflow

REPLICAS = [1, 2, 4]


def exchange(replicas, function):
    """What `function(a, b)` returns on each replica r for a = [r], b = [10 r, 20 r]."""
    strategy = strategies.mirrored(replicas)
    values = [
        (tf.constant([float(r)], tf.float64), tf.constant([10.0 * r, 20.0 * r], tf.float64))
        for r in range(replicas)
    ]
    traced = tf.function(lambda a, b: strategy.run(function, args=(a, b)), autograph=False)
    a, b = (strategies.distribute(strategy, column) for column in zip(*values, strict=True))
    results = traced(a, b)
    operations = traced.get_concrete_function(a, b).graph.get_operations()
    collectives = sum(op.type.startswith("Collective") for op in operations)
    local = tf.nest.map_structure(
        lambda v: [np.asarray(x).tolist() for x in strategy.experimental_local_results(v)], results
    )
    return local, collectives / replicas


@pytest.mark.parametrize("replicas", REPLICAS)
def test_gather_stacks_what_each_member_sent(replicas):
    (a, b), collectives = exchange(replicas, lambda a, b: ReplicaGroup().gather([a, b]))
    assert a == [[[float(r)] for r in range(replicas)]] * replicas
    assert b == [[[10.0 * r, 20.0 * r] for r in range(replicas)]] * replicas
    assert collectives == (1 if replicas > 1 else 0)


@pytest.mark.parametrize("replicas", REPLICAS)
def test_sum_adds_over_members(replicas):
    (a, b), collectives = exchange(replicas, lambda a, b: ReplicaGroup().sum([a, b]))
    total = sum(range(replicas))
    assert a == [[float(total)]] * replicas
    assert b == [[10.0 * total, 20.0 * total]] * replicas
    assert collectives == (1 if replicas > 1 else 0)


def test_groups_of_two_of_four():
    group = ReplicaGroup(2)
    gathered, collectives = exchange(4, lambda a, b: group.gather([a])[0])
    assert gathered == [[[0.0], [1.0]]] * 2 + [[[2.0], [3.0]]] * 2
    summed, _ = exchange(4, lambda a, b: group.sum([a])[0])
    assert summed == [[1.0]] * 2 + [[5.0]] * 2
    assert collectives == 1


def test_a_nan_stays_in_its_group():
    def function(a, b):
        poisoned = tf.where(a == 0.0, tf.constant(np.nan, a.dtype), a)
        return ReplicaGroup(2).gather([poisoned])[0], ReplicaGroup(2).sum([poisoned])[0]

    (gathered, summed), _ = exchange(4, function)
    assert np.isnan(gathered[0][0]) and np.isnan(summed[1][0])
    assert np.isfinite(gathered[2:]).all() and np.isfinite(summed[2:]).all()


def test_a_group_of_one_communicates_nothing():
    gathered, collectives = exchange(4, lambda a, b: ReplicaGroup(1).gather([a])[0])
    assert gathered == [[[0.0]], [[1.0]], [[2.0]], [[3.0]]]
    assert collectives == 0


@pytest.mark.parametrize("size", [None, 2])
def test_the_gradient_of_a_sum_is_the_sum_of_gradients(size):
    """Replica r has the loss (r + 1) * total; every replica's value moves all losses."""

    def function(a, b):
        factor = a[0] + 1.0
        with tf.GradientTape() as tape:
            tape.watch(b)
            (total,) = ReplicaGroup(size).sum([b])
            loss = factor * tf.reduce_sum(total)
        return tape.gradient(loss, b)

    gradients, _ = exchange(4, function)
    expected = [10.0] * 4 if size is None else [3.0, 3.0, 7.0, 7.0]
    assert gradients == [[value] * 2 for value in expected]


def test_outside_replica_context_a_replica_is_alone():
    with strategies.mirrored(4).scope():
        assert ReplicaGroup().members() == 1
        assert ReplicaGroup().sum([tf.constant([2.0])])[0].numpy() == [2.0]


def test_rejects_a_size_that_does_not_divide():
    with pytest.raises(ValueError, match=r"'bn': `group_size` must divide.*group_size=3 with 4"):
        exchange(4, lambda a, b: ReplicaGroup(3, "SyncBatchNormalization 'bn'").gather([a])[0])


@pytest.mark.parametrize("way", ["cond", "while", "function"])
def test_rejects_a_collective_in_a_nested_function(way):
    group = ReplicaGroup(owner="SyncBatchNormalization 'bn'")

    def function(a, b):
        if way == "cond":
            return tf.cond(a[0] > -1.0, lambda: group.sum([a])[0], lambda: a)
        if way == "while":
            return tf.while_loop(lambda a: a[0] < 1.0, lambda a: group.sum([a]), [a])
        return tf.function(lambda a: group.sum([a])[0])(a)

    with pytest.raises(RuntimeError, match="'bn': synchronized statistics need a collective"):
        exchange(4, function)
