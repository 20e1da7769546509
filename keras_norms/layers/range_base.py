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
    """See `RangeBatchNormalization`, whose arguments these are.

    Where a layer `can_do_without`, its `range_constant` may be None, and it is batch normalization.
    """

    can_do_without = False

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
        if range_constant is not None or not self.can_do_without:
            check_choice(self, "range_constant", tuple(RANGE_CONSTANTS), self._owner)
            rule = "a range stands for a deviation, so `unbiased_moving_variance` must be False"
            is_unbiased = self.unbiased_moving_variance
            require(not is_unbiased, self._owner, rule, unbiased_moving_variance=is_unbiased)

    @property
    def kept(self):
        return super().kept if self.range_constant is None else MOVING_SCALE

    def _statistic(self, state):
        if self.range_constant is None:
            return super()._statistic(state)
        return RangesStatistic(self.num_chunks, self.range_constant)

    def _viewed(self, inputs, mask):
        if mask is not None and self.range_constant is not None:
            mask = tf.convert_to_tensor(mask)
            rule = (
                "an extreme cannot count in part, so a mask must hold bools or the integers 0 and "
                "1; cast weights that are 0 or 1 to bool"
            )
            require(not mask.dtype.is_floating, self._owner, rule, dtype=mask.dtype.name)
            if mask.dtype.is_integer:
                mask = mask > 0  # A value counts once, in the mean as well.
        return super()._viewed(inputs, mask)

    def _transform(self, state, enabled, may_be_empty):
        """With ranges any batch may be too small for one, also without a mask."""
        return super()._transform(state, enabled, may_be_empty or self.range_constant is not None)

    def _advise(self, shape, axis):
        if self.range_constant is None:
            super()._advise(shape, axis)
        else:
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
