"""Replicas that share statistics: the only place with a collective.

Each of the two exchanges is one all-reduce of one packed vector. The forward
exchange gives every replica a slot of its own in the packed buffer, so that the
parts arrive as they were sent and can be merged exactly; sums of moments over
replicas would lose the variance of values far from zero even in float64 (at a
mean of 1e6 standard deviations, its fourth digit). The backward exchange is a plain
sum. A group of replicas has its own slots in the same buffer, so all replicas
take part in every collective in the same order. Where all groups lie within
workers (machines), nothing is sent between these.

The slots grow with the group. Above `SLOTS` members the parts are merged by sums
instead: first those that the mean needs, then, with the mean known, the squares
around it. That is as exact, and costs a second collective forward.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_norms.statistics import agreement
from keras_norms.statistics.exchange_order import in_exchange

# Slots of more members take longer than another small collective; benchmarks/scaling_model.py.
SLOTS = 8


@dataclasses.dataclass(frozen=True)
class ReplicaGroup:
    """The replicas that share statistics with this one.

    Outside replica context (a layer called on the whole batch) and on a single replica
    the group is this one alone and nothing is communicated.

    Attributes:
        size: replicas per group, consecutive ones; `"worker"` for those of a machine; None for all.
        owner: the layer that is named in errors.
    """

    size: int | str | None = None
    owner: str = "normalize_batch"

    def members(self):
        """The number of replicas in this replica's group.

        Raises:
            ValueError: if `size` does not divide the number of replicas.
        """
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync if context else 1
        if replicas == 1 or self.size is None:
            return replicas
        if isinstance(self.size, str):
            return _replicas_of_worker(context)
        if replicas % self.size:
            raise ValueError(
                f"{self.owner}: `group_size` must divide the number of replicas. "
                f"Received: group_size={self.size} with {replicas} replicas."
            )
        return self.size

    def gather(self, vectors):
        """Returns each vector of every member, stacked on a new first axis."""
        packed, unpack = _pack(vectors)
        return unpack(self._gather_packed(packed))

    def merged(self, parts, merge):
        """The parts of all members, by the `merge` of their `Statistic`."""
        return merge(parts, self.sum) if self.members() > SLOTS else merge(self.gather(parts))

    def rows_to_merge(self, parts_of_layers, merge):
        """For each layer a matrix of packed parts: a row a member, or one of a large group."""
        if self.members() <= SLOTS:
            packed, unpack = _pack([_pack(parts)[0] for parts in parts_of_layers])
            return unpack(self._gather_packed(packed))
        if len(parts_of_layers) == 1:
            return [tf.concat(merge(parts_of_layers[0], self.sum), 0)[tf.newaxis]]
        # Side by side, as if they were one layer with the channels of all.
        wide = [tf.zeros_like(parts[-1]) for parts in parts_of_layers]
        kinds = [
            _pack([part + zeros for part, zeros in zip(kind, wide, strict=True)])
            for kind in zip(*parts_of_layers, strict=True)
        ]
        merged = merge([packed for packed, _ in kinds], self.sum)
        apart = [unpack(kind) for kind, (_, unpack) in zip(merged, kinds, strict=True)]
        rows = []
        for parts, found in zip(parts_of_layers, zip(*apart, strict=True), strict=True):
            sizes = [part.shape[-1] for part in parts]
            rows.append(tf.concat([v[:n] for v, n in zip(found, sizes, strict=True)], 0))
        return [row[tf.newaxis] for row in rows]

    def _gather_packed(self, packed):
        members = self.members()
        if members == 1:
            return packed[tf.newaxis]
        packed, unsigned = agreement.signed_row(packed, members, self.owner)
        index, replicas, reduce = self._taking_part(members)
        slots = _slots(packed, index, replicas, reduce)
        if members < replicas:
            first = index // members * members
            slots = slots[first : first + members]
        return unsigned(slots)

    def sum(self, vectors):
        """Returns the sum of each vector over the members. Differentiable."""
        members = self.members()
        if members == 1:
            return vectors
        packed, unpack = _pack(vectors)
        packed, unsigned = agreement.signed_summand(packed, members, self.owner)
        index, replicas, reduce = self._taking_part(members)
        groups = replicas // members
        if groups == 1:
            return unpack(unsigned(reduce(packed)))
        group = index // members
        return unpack(unsigned(_slots(packed, group, groups, reduce)[group]))

    def _taking_part(self, members):
        """Those who take part in a collective of groups with so many members."""
        context = tf.distribute.get_replica_context()
        replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
        of_worker = _replicas_of_worker(context)
        if of_worker < replicas and of_worker % members == 0:
            return _Exchange(replica % of_worker, of_worker, self._sum_within_worker)
        return _Exchange(replica, replicas, self._all_reduce)

    def _all_reduce(self, packed):
        context = tf.distribute.get_replica_context()
        return self._collective(lambda: context.all_reduce(tf.distribute.ReduceOp.SUM, packed))

    def _sum_within_worker(self, packed):
        """The sum over the replicas of this process, which see each other's tensors."""

        def total(strategy, values):
            return tf.add_n(list(strategy.experimental_local_results(values)))

        @tf.custom_gradient
        def summed(packed):
            context = tf.distribute.get_replica_context()
            result = self._collective(lambda: context.merge_call(total, args=(packed,)))
            # A tensor that replicas share has to be one of this replica's trace for its gradient.
            return tf.identity(result), self._sum_within_worker

        return summed(packed)

    def _collective(self, run):
        try:
            with in_exchange(self.owner):
                return run()
        except RuntimeError as error:
            if "merge_call" not in str(error):
                raise
            raise RuntimeError(
                f"{self.owner}: synchronized statistics need a collective, which "
                "tf.distribute does not allow inside tf.cond, tf.while_loop or a nested "
                "tf.function of a replica. Call the layer outside of it, for a condition pass "
                "the tensor as `training`, or decorate only the outermost function with "
                "tf.function. Received: a call from such a nested function."
            ) from error


class _Exchange(NamedTuple):
    """A collective, as a replica sees it.

    Attributes:
        index: which of those who take part this replica is.
        replicas: how many take part.
        reduce: returns the sum of a vector over them.
    """

    index: Any
    replicas: int
    reduce: Callable


def _replicas_of_worker(context):
    return len(context.strategy.extended.worker_devices)


def _slots(packed, index, slots, reduce):
    """A matrix with `packed` as row `index` here, and the rows of the others."""
    own = tf.one_hot(index, slots, dtype=packed.dtype)[:, tf.newaxis]
    # A NaN in one row must not be one in all.
    return reduce(tf.math.multiply_no_nan(packed, own))


def _pack(vectors):
    """One vector, and the function that cuts its last axis into the originals' sizes."""
    sizes = [vector.shape[-1] for vector in vectors]
    packed = tf.concat(vectors, -1) if len(vectors) > 1 else vectors[0]

    def unpack(packed):
        return tf.split(packed, sizes, -1) if len(sizes) > 1 else [packed]

    return packed, unpack
