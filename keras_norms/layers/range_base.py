"""What the layers have in common that normalize with ranges in place of variances."""

import math

import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.layers.channels import argument_names
from keras_norms.layers.rules import check_arguments, check_choice
from keras_norms.statistics.moving_statistics import MOVING_SCALE
from keras_norms.statistics.ranges import RANGE_CONSTANTS, RangesStatistic


class RangeNormalizationBase(BatchNormalizationBase):
    """See `RangeBatchNormalization`, whose arguments these are."""

    kept = MOVING_SCALE

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-5,
        *,
        num_chunks=8,
        range_constant="calibrated",
        **kwargs,
    ):
        super().__init__(axis, momentum, epsilon, **kwargs)
        self.num_chunks = num_chunks
        self.range_constant = range_constant
        check_arguments(self, argument_names(RangeNormalizationBase), self._owner)
        self._check_range_constant()

    def _check_range_constant(self):
        check_choice(self, "range_constant", tuple(RANGE_CONSTANTS), self._owner)
        rule = "a range stands for a deviation, so `unbiased_moving_variance` must be False"
        value = self.unbiased_moving_variance
        require(not value, self._owner, rule, unbiased_moving_variance=value)

    def _statistic(self, state):
        del state
        return RangesStatistic(self.num_chunks, self.range_constant)

    def _affine(self, state, statistics, gamma=None, beta=None):
        del state
        inverse_scale = 1.0 / (statistics.deviation + self.epsilon)
        scale = inverse_scale if gamma is None else gamma * inverse_scale
        return scale, statistics.mean, beta

    def _stored(self, state):
        mean, spread = (tf.cast(state[name], tf.float64) for name in self.kept.names)
        return {"mean": mean, "deviation": spread - self.epsilon}

    def _viewed(self, inputs, mask):
        if mask is not None:
            mask = tf.convert_to_tensor(mask)
            self._check_mask(mask)
        return super()._viewed(inputs, mask)

    def _check_mask(self, mask):
        rule = (
            "an extreme cannot count in part, so a mask must hold bools or the integers 0 and 1; "
            "cast weights that are 0 or 1 to bool"
        )
        require(not mask.dtype.is_floating, self._owner, rule, dtype=mask.dtype.name)

    def _advise(self, shape, axis):
        super()._advise(shape, axis)
        self._check_chunks(shape, axis)

    def _check_chunks(self, shape, axis):
        """Raises if a chunk would have a single value, where the sizes are known."""
        sizes = [size for a, size in enumerate(shape) if a != axis]
        if self.virtual_batch_size is not None and sizes[0] is not None:
            sizes[0] = min(sizes[0], self.virtual_batch_size)
        if None in sizes or 0 in sizes:
            return
        values = math.prod(sizes)
        rule = (
            "a chunk of one value has no range, so a batch needs `2 * num_chunks` values per "
            "channel or more"
        )
        is_enough = values >= 2 * self.num_chunks
        require(is_enough, self._owner, rule, num_chunks=self.num_chunks, values_per_channel=values)
