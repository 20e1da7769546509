"""Replicas that share statistics: the only place with a collective.

Each of the two exchanges is one all-reduce of one packed vector. The forward
exchange gives every replica a slot of its own in the packed buffer, so that the
parts arrive as they were sent and can be merged exactly; sums of moments over
replicas would lose the variance of values far from zero even in float64 (at a
mean of 1e6 standard deviations, its fourth digit). The backward exchange is a plain
sum. A group of replicas has its own slots in the same buffer, so all replicas
take part in every collective in the same order.
"""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class ReplicaGroup:
    """The replicas that share statistics with this one.

    Outside replica context (a layer called on the whole batch) and on a single replica
    the group is this one alone and nothing is communicated.

    Attributes:
        size: replicas per group, consecutive ones; None for all.
        owner: the layer that is named in errors.
    """

    size: int | None = None
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
        if replicas % self.size:
            raise ValueError(
                f"{self.owner}: `group_size` must divide the number of replicas. "
                f"Received: group_size={self.size} with {replicas} replicas."
            )
        return self.size

    def gather(self, vectors):
        """Returns each vector of every member, stacked on a new first axis."""
        packed, unpack = _pack(vectors)
        return unpack(self.gather_packed([packed]))

    def gather_packed(self, vectors):
        """Returns a matrix with a row for every member, its vectors one after the other."""
        packed, _ = _pack(vectors)
        members = self.members()
        if members == 1:
            return packed[tf.newaxis]
        context = tf.distribute.get_replica_context()
        replicas, replica = context.num_replicas_in_sync, context.replica_id_in_sync_group
        slots = self._all_reduce_slots(packed, replica, replicas)
        if members < replicas:
            first = replica // members * members
            slots = slots[first : first + members]
        return slots

    def sum(self, vectors):
        """Returns the sum of each vector over the members. Differentiable."""
        members = self.members()
        if members == 1:
            return vectors
        packed, unpack = _pack(vectors)
        context = tf.distribute.get_replica_context()
        groups = context.num_replicas_in_sync // members
        if groups == 1:
            return unpack(self._all_reduce(packed))
        group = context.replica_id_in_sync_group // members
        return unpack(self._all_reduce_slots(packed, group, groups)[group])

    def _all_reduce_slots(self, packed, index, slots):
        """A matrix with `packed` as row `index` here, and the rows of the others."""
        own = tf.one_hot(index, slots, dtype=packed.dtype)[:, tf.newaxis]
        # A NaN in one row must not be one in all.
        return self._all_reduce(tf.math.multiply_no_nan(packed, own))

    def _all_reduce(self, packed):
        context = tf.distribute.get_replica_context()
        try:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, packed)
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


def _pack(vectors):
    """One vector, and the function that cuts its last axis into the originals' sizes."""
    sizes = [vector.shape[-1] for vector in vectors]
    packed = tf.concat(vectors, -1) if len(vectors) > 1 else vectors[0]

    def unpack(packed):
        return tf.split(packed, sizes, -1) if len(sizes) > 1 else [packed]

    return packed, unpack
