"""The exchange between replicas: what arrives, in groups, with which collectives."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.statistics import agreement, replicas
from keras_norms.statistics.effective_size import SIZED_MOMENTS
from keras_norms.statistics.moments import MOMENTS
from keras_norms.statistics.ranges import RangesStatistic
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


def called_on(replicas, names, skips):
    """Four replicas that call synchronized layers, but for `(replica, name)` in `skips`."""
    groups = {name: ReplicaGroup(owner=f"SyncBatchNormalization '{name}'") for name in names}

    def function(a, b):
        number = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
        for name, group in groups.items():
            if (int(number), name) not in skips:
                (a,) = group.sum([a])
        return a

    return exchange(replicas, function)


@pytest.mark.parametrize("replica", [0, 1, 3])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_layer_that_a_replica_leaves_out_is_refused(replica, name):
    rule = "every replica must call the synchronized layers in the same order"
    with pytest.raises(ValueError, match=f"SyncBatchNormalization '.': {rule}") as refused:
        called_on(4, "abc", {(replica, name)})
    assert f"'{name}'" in str(refused.value)


def test_a_last_layer_that_a_replica_leaves_out_is_named():
    named = "SyncBatchNormalization 'b': a replica waited for this layer, which another one did not"
    with pytest.warns(UserWarning, match=named), pytest.raises(RuntimeError, match="merge_call"):
        called_on(4, "ab", {(2, "b")})


@pytest.fixture
def checks():
    keras_norms.set_replica_checks(True)
    yield
    keras_norms.set_replica_checks(False)


def test_checks_change_nothing_where_replicas_agree(checks):
    group = ReplicaGroup(owner="SyncBatchNormalization 'agrees'")
    sent = tf.constant([np.nan], tf.float64)  # Which is a number to pass on, not damage.
    step = tf.function(
        lambda: strategies.mirrored(4).run(lambda: (group.gather([sent])[0], group.sum([sent])[0]))
    )
    for _ in range(3):
        for results in step():
            assert np.isnan(strategies.mirrored(4).experimental_local_results(results)).all()
    (a, b), _ = exchange(4, lambda a, b: group.gather([a, b]))
    assert a == [[[0.0], [1.0], [2.0], [3.0]]] * 4 and b[3][2] == [20.0, 40.0]
    summed, _ = exchange(4, lambda a, b: ReplicaGroup(2, "another").sum([b])[0])
    assert summed == [[10.0, 20.0]] * 2 + [[50.0, 100.0]] * 2


def test_checks_allow_for_rounding_where_sums_cancel(checks):
    group = ReplicaGroup(owner="SyncBatchNormalization 'cancels'")

    def function(a, b):
        large = (2.0 * a[0] - 3.0) * 1e8 * tf.constant([1.0, -1.0, 0.1], tf.float64) + 1.0 / 3.0
        return group.sum([large])[0], group.gather([large])[0]

    (summed, _), _ = exchange(4, function)
    np.testing.assert_allclose(summed, [[4.0 / 3.0] * 3] * 4, 1e-6)


@pytest.mark.parametrize("way", ["gather", "sum"])
@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("layer", "replicas must exchange statistics of the same layer in groups"),
        ("call", "replicas must make the same number of steps"),
        ("total", "what a replica sends must arrive unchanged"),
    ],
)
def test_checks_notice_another_layer_another_step_and_damage(
    checks, monkeypatch, way, damage, rule
):
    signature = agreement._signature

    def damaged(packed, members, owner, direction):
        own = signature(packed, members, owner, direction)
        is_third = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
        off = [float(damage == name) for name in ("layer", "call", "total", "magnitude")]
        return own + tf.constant(off, own.dtype) * float(is_third == 2)

    monkeypatch.setattr(agreement, "_signature", damaged)
    group = ReplicaGroup(owner=f"SyncBatchNormalization '{damage}'")
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"'{damage}.?': {rule}"):
        exchange(4, lambda a, b: getattr(group, way)([a, b]))


def test_checks_are_left_out_of_what_xla_compiles(checks):
    kinds = []

    @tf.function(jit_compile=True)
    def compiled(x):
        packed, unsigned = agreement.signed_row(x, 1, "a layer")
        kinds.append(packed.shape[0])
        return unsigned(packed[tf.newaxis])

    assert compiled(tf.constant([1.0, 2.0], tf.float64)).numpy().tolist() == [[1.0, 2.0]]
    assert kinds == [2]


def test_checks_want_a_bool():
    with pytest.raises(ValueError, match="`enabled` must be a bool. Received: 1"):
        keras_norms.set_replica_checks(1)


def ring_sum(ranks):
    """The all-reduce of a ring: each rank adds to what its neighbour hands on, a chunk at a time.

    Every chunk is added in an order of its own, as in NCCL and in TensorFlow's ring.
    """
    count = len(ranks)
    chunks = [np.array_split(rank.copy(), count) for rank in ranks]
    for step in range(count - 1):
        sent = [chunks[r][(r - step) % count].copy() for r in range(count)]
        for r in range(count):
            chunks[r][(r - 1 - step) % count] += sent[(r - 1) % count]
    whole = [chunks[(i - 1) % count][i] for i in range(count)]
    return np.concatenate(whole)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_64_ranks_of_a_ring_merge_exactly(rng, offset):
    """Ranks with 0 to 40 values; the slots of all pass through a simulated ring."""
    channels, ranks = 3, 64
    sizes = rng.integers(0, 41, ranks)
    values = [rng.normal(offset, 1.0, (size, channels)) for size in sizes]
    sent = np.zeros((ranks, ranks, 3, channels))
    for rank, x in enumerate(values):
        if len(x):
            sent[rank, rank] = [[len(x)] * channels, x.mean(0), ((x - x.mean(0)) ** 2).sum(0)]
    arrived = ring_sum(list(sent.reshape(ranks, -1))).reshape(ranks, 3, channels)
    np.testing.assert_array_equal(arrived, sent.sum(0))  # Nothing is rounded on the way.
    parts = tuple(tf.constant(arrived[:, i]) for i in range(3))

    def total(vectors):  # Each rank's own parts, in a ring without slots.
        packed = tf.concat(vectors, 1).numpy()
        return np.split(ring_sum(list(packed)), len(vectors))

    whole = np.concatenate(values).astype(np.longdouble) - offset
    for merged in (MOMENTS.merge(parts), MOMENTS.merge(parts, total)):
        found = MOMENTS.finish(merged)
        mean = np.asarray(found.mean) - offset
        np.testing.assert_allclose(mean, whole.mean(0), 1e-12, 1e-15 * offset)
        np.testing.assert_allclose(found.variance, whole.var(0), 1e-12 if offset == 0 else 1e-9)


@pytest.mark.parametrize(
    "statistic", [MOMENTS, SIZED_MOMENTS, RangesStatistic(2, "calibrated")], ids=type
)
@pytest.mark.parametrize("size", [None, 2])
def test_large_groups_merge_by_sums_of_constant_size(monkeypatch, rng, statistic, size):
    """With a limit of 1 in place of 8, so that four replicas are many."""
    values = [tf.constant(rng.normal(1e3, 1.0, (n, 2))) for n in (5, 3, 0, 7)]
    strategy, group = strategies.mirrored(4), ReplicaGroup(size)

    def function(x):
        own, _ = statistic.local(x, axis=1, weights=None, segment_size=None)
        extra = tf.ones([2], tf.float64)
        return group.merged([*own, extra], statistic.merge)

    def results():
        traced = tf.function(lambda x: strategy.run(function, (x,)), autograph=False)
        x = strategies.distribute(strategy, values)
        merged = traced(x)
        graph = traced.get_concrete_function(x).graph
        sizes = [
            op.inputs[0].shape.num_elements()
            for op in graph.get_operations()
            if op.type.startswith("CollectiveReduce")
        ]
        found = [np.stack(strategy.experimental_local_results(part)) for part in merged]
        return found, len(sizes) / 4, sum(sizes) / 4

    expected, collectives, numbers = results()
    monkeypatch.setattr(replicas, "SLOTS", 1)
    actual, collectives_of_sums, numbers_of_sums = results()
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    groups = 4 // (size or 4)
    assert numbers == 4 * numbers_of_sums / groups
    assert collectives == 1
    assert collectives_of_sums == (1 if isinstance(statistic, RangesStatistic) else 2)
