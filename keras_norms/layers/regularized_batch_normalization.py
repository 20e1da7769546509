"""Regularized batch normalization: a penalty on the gap between training and inference."""

import numpy as np
import tensorflow as tf

from keras_norms.arguments import is_number, require
from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.layers.keras_2 import registered
from keras_norms.layers.rules import check_choice
from keras_norms.schedules import schedule_or_number, value_at

PENALTIES = ("variance_l1", "stddev_l2")
TARGETS = ("updated", "previous")
WEIGHTS = ("mean_weight", "variance_weight")


@registered
class RegularizedBatchNormalization(BatchNormalizationBase):
    """`BatchNormalization` that pulls the statistics of each batch towards the moving ones.

    Normalizes as `BatchNormalization` does. In training it adds a loss, per channel `c`:

        "variance_l1"  mean_weight * sum_c (mean - moving_mean)^2
                       + variance_weight * sum_c |variance - moving_variance|
        "stddev_l2"    mean_weight * sum_c (mean - moving_mean)^2
                       + variance_weight * sum_c (stddev - moving_stddev)^2

    with `stddev = sqrt(max(variance, epsilon))`. Its gradient goes through the statistics of the
    batch, and so into the layers before; the moving statistics are constants. With
    `synchronized=True` the statistics are those of all replicas, and the loss counts once. With
    `virtual_batch_size` it is the average over the virtual batches, by count.

    Use it where models that train well with batch normalization do badly in inference: texts,
    whose batches differ much from each other (see
    `callbacks.TrainingInferenceDiscrepancy`, which measures the gap). Not where the gap is small:
    there it does nothing. The sums go over channels, so the penalty is stronger in wider layers;
    the moving statistics begin at 0 and 1, so at first it pulls towards these. A schedule for the
    weights that begins with 0 is a warm-up: `LinearRamp(0, 4_000, 0.0, weight)`.

    The published weights, 0.1 and 0.01, are for losses that are summed over the tokens of a batch,
    4096 of them; Keras takes the mean, so the defaults are those divided by 4096. See
    `weight_of_token_sum`. They were found for losses of tokens; for one loss per text,
    `experiments/text_classification` takes 600 / 4096 and 60 / 4096.

    In a custom loop add `model.losses` to the loss; on several replicas each has the whole
    penalty, and all is divided by their number, as Keras does in `fit`.

    A model may not train the layer inside a `tf.function` of its own, a `tf.cond` or a loop of
    TensorFlow (an RNN that is not unrolled), which the penalty could not leave. All of the training
    step may be in one, as in `fit`.

    Where the backward pass recomputes a block with the layer (`tf.recompute_grad`), it runs the
    block once more for the gradient of the penalty. A block that returns `layer.losses` with its
    outputs, to be added to the loss instead of `model.losses`, avoids that.

    Args:
        axis: see `BatchNormalization`, as for all but these. Defaults to `-1`.
        momentum: the share of the old moving value kept, in [0, 1]: a number, a Keras schedule
            of the layer's step, a variable, which acts at once when it is assigned, or `None` for
            the average of all training batches. Defaults to `0.95`.
        epsilon: added to the variance. Defaults to `1e-5`.
        mean_weight: a finite number, at least 0, or a schedule. The n-th training call, from 0,
            uses a schedule at n. Defaults to `0.1 / 4096`.
        variance_weight: the same for the second term. Defaults to `0.01 / 4096`.
        penalty: `"variance_l1"`, that of the authors' code, or `"stddev_l2"`, that of the paper.
            Defaults to `"variance_l1"`.
        penalty_uses: `"updated"`, the moving statistics with this batch in them, as in the
            authors' code, or `"previous"`, those before. The first makes the mean's term
            `momentum^2` times that of the second. With `accumulate_steps` they are those after the
            call, which only the last of N calls has moved. Defaults to `"updated"`.
        **kwargs: all other arguments of `BatchNormalization`.

    Call arguments and shapes: as `BatchNormalization`. What a mask leaves out is in no statistic
    and has no part in the penalty or its gradient; a batch in which nothing counts adds 0.

    Weights: those of `BatchNormalization`, and, if a weight is a schedule, `step`, the number of
    updates so far, int64.

    Raises:
        ValueError: as `BatchNormalization`, and for an invalid argument.
        RuntimeError: where the penalty could not reach `model.losses`.

    Example:

    >>> layer = keras_norms.RegularizedBatchNormalization(
    ...     mean_weight=1.0, variance_weight=1.0, penalty_uses="previous"
    ... )
    >>> y = layer(tf.constant([[1.0], [3.0]]), training=True)  # mean 2, variance 1
    >>> [float(loss) for loss in layer.losses]  # moving_mean is 0, moving_variance 1
    [4.0]

    Reference:
        Wang, Wu and Huang, 2022, https://arxiv.org/abs/2210.05153.
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.95,
        epsilon=1e-5,
        mean_weight=0.1 / 4096,
        variance_weight=0.01 / 4096,
        penalty="variance_l1",
        *,
        penalty_uses="updated",
        **kwargs,
    ):
        super().__init__(axis, momentum, epsilon, **kwargs)
        self.mean_weight = schedule_or_number(mean_weight, "mean_weight", 0.0, self._owner)
        self.variance_weight = schedule_or_number(
            variance_weight, "variance_weight", 0.0, self._owner
        )
        self.penalty = penalty
        self.penalty_uses = penalty_uses
        for name in WEIGHTS:
            weight = getattr(self, name)
            require(weight != np.inf, self._owner, f"`{name}` must be finite", **{name: weight})
        check_choice(self, "penalty", PENALTIES, self._owner)
        check_choice(self, "penalty_uses", TARGETS, self._owner)

    @staticmethod
    def weight_of_token_sum(weight, tokens):
        """A weight published for losses summed over tokens, for the mean loss of Keras.

            weight / tokens

        Args:
            weight: of the penalty, where the loss is a sum.
            tokens: how many tokens the batches had for which the weight was found, a number above
                0: the real ones, without padding. 4096 for the published ones.

        >>> keras_norms.RegularizedBatchNormalization.weight_of_token_sum(0.1, tokens=4096)
        2.44140625e-05
        """
        owner = "weight_of_token_sum"
        is_above = is_number(tokens, 0, may_be_infinite=True) and tokens > 0
        require(is_above, owner, "`tokens` must be above 0", tokens=tokens)
        rule = "`weight` must be a finite number, at least 0"
        require(is_number(weight, 0), owner, rule, weight=weight)
        rule = "the quotient must be finite"
        require(is_number(weight / tokens, 0), owner, rule, weight=weight, tokens=tokens)
        return weight / tokens

    @property
    def counts_steps(self):
        of_weights = (not isinstance(getattr(self, name), float) for name in WEIGHTS)
        return super().counts_steps or any(of_weights)

    @property
    def _has_penalty(self):
        return any(getattr(self, name) != 0.0 for name in WEIGHTS)

    def _formula(self, state):
        """With mean and variance as extras, since extras carry gradients to the batch."""
        return super()._formula(state)._replace(has_extras=self._has_penalty)

    def _use_extras(self, run, state, updated, statistics, extras, enabled):
        if not self._has_penalty:
            return
        mean, variance = extras
        used = updated if self.penalty_uses == "updated" else state
        moving_mean, moving_variance = (
            tf.stop_gradient(tf.cast(used[name], tf.float64)) for name in self.kept.names
        )
        terms = zip(
            [self._weight_now(name, state) for name in WEIGHTS],
            (tf.square(mean - moving_mean), self._spread_gap(variance, moving_variance)),
            strict=True,
        )
        penalty = tf.add_n([weight * term for weight, term in terms])
        penalty = tf.where(statistics.count > 0.0, penalty, tf.zeros_like(penalty))
        if self.virtual_batch_size is not None:
            total = tf.reduce_sum(statistics.count, 0)
            penalty = penalty * tf.math.divide_no_nan(statistics.count, total)
        run.add_loss(tf.cast(tf.reduce_sum(penalty), self.moving_mean.dtype))

    def _spread_gap(self, variance, moving_variance):
        if self.penalty == "variance_l1":
            return tf.abs(variance - moving_variance)
        stddev, moving_stddev = (
            tf.sqrt(tf.maximum(value, self.epsilon)) for value in (variance, moving_variance)
        )
        return tf.square(stddev - moving_stddev)

    def _weight_now(self, name, state):
        """A weight at this training call."""
        weight = getattr(self, name)
        return value_at(weight, state["step"], 0.0) if self.counts_steps else weight
