"""Adaptive batch normalization: only batches whose samples differ from the usual are normalized."""

import tensorflow as tf

from keras_norms.arguments import plain, require
from keras_norms.keras_api import keras
from keras_norms.keras_weights import add_moving_statistic
from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.layers.keras_2 import registered
from keras_norms.layers.rules import check_arguments
from keras_norms.printable import printable
from keras_norms.schedules import momentum_at
from keras_norms.statistics.gated_moments import GatedMomentsStatistic

GATE_WEIGHTS = "moving_sample_mean", "moving_open_share"


@registered
class AdaptiveBatchNormalization(BatchNormalizationBase):
    """`BatchNormalization` behind a gate, which heterogeneous batches open.

    Training, with `m_i` the mean of all values of sample `i` that count by the mask:

        A     = moving_sample_mean
        score = share of the samples with m_i outside [A - band * |A|, A + band * |A|]
        open  = score > threshold
        y     = gamma * (x - mean) / sqrt(variance + epsilon) + beta    where open
        y     = gamma * x + beta                                        where closed

    `mean` and `variance` are those of the batch, as in `BatchNormalization`. Then, with `momentum`:

        moving_mean, moving_variance   average mean and variance of the batches that opened the gate
        moving_open_share              averages open, 1 or 0
        moving_sample_mean             averages the mean of the m_i

    Inference, and training with `trainable = False`, average over what training did, with
    `s = moving_open_share`; for `s = 1` that is batch normalization:

        y = gamma * (s * (x - moving_mean) / sqrt(moving_variance + epsilon) + (1 - s) * x) + beta

    At first `moving_sample_mean` is 0 and `moving_open_share` 1, so the first batches are
    normalized. The gate is a constant: no gradient flows through scores.

    What is from the paper is the rule for a batch: the mean of a sample against a band of 120 %
    around a mean, and one sample outside is enough. There it acts on the raw input, with one mean
    a class, and nothing follows in inference: that is `AdaptiveBatchStandardization`. The rest is
    this package's: the rule inside a network, the moving mean without labels, the threshold, gamma
    and beta, and inference. No results are published for it; in
    our study (docs/results/range_norms.md) it was below batch normalization, and some trainings
    diverged.

    Use it to study the rule, where activations have one sign: after a ReLU, or near the input. Not
    where their mean is near 0: there the band has no width, and the gate is always open. A gate
    that is often closed leaves the scale of activations to the layers before.

    A step reads `x` once more than one of `BatchNormalization`, for the means of the samples;
    where the gate is closed that is not saved. With `synchronized=True` score and gate are those
    of all replicas, from the same collective; without, each replica has its own.

    Args:
        axis: see `BatchNormalization`, as for all but these. Axis 0, that of the samples, cannot be
            one of them. Defaults to `-1`.
        momentum: the share of the old moving value kept, in [0, 1]: a number, a Keras schedule
            of the layer's step, a variable, which acts at once when it is assigned, or `None` for
            the average of all training batches, and of mean and variance of all that opened the
            gate. Defaults to `0.99`.
        epsilon: added to the variance. Defaults to `1e-3`.
        band: a finite number, at least 0: how far the mean of a sample may be from the moving one,
            as a share of that. Defaults to `1.2`, as in the paper.
        threshold: a number in [0, 1): the gate opens where the score is above it. With 0 one sample
            is enough, as in the paper. Defaults to `0.0`.
        open_share_metric: whether the share of training calls with an open gate is a metric of the
            model, `<layer>_open_share` (in an evaluation it stays 0). Defaults to `False`.
        **kwargs: all other arguments of `BatchNormalization` but `virtual_batch_size` and
            `accumulate_steps`. `max_update` bounds the updates of the moving mean and variance
            only; a mean of samples that is not finite never enters `moving_sample_mean`.

    Call arguments and shapes: as `BatchNormalization`. A sample in which nothing counts has no part
    in the score; others count alike, whatever their weights.

    Weights: those of `BatchNormalization`, with `step` where `momentum` needs one, and the scalars
    `moving_sample_mean` and `moving_open_share`.

    Raises:
        ValueError: as `BatchNormalization`, and for a `virtual_batch_size` or `accumulate_steps`.

    Example:

    >>> layer = keras_norms.AdaptiveBatchNormalization(momentum=0.0, epsilon=0.0)
    >>> x = tf.constant([[1.0], [3.0]])
    >>> layer(x, training=True).numpy().T  # moving_sample_mean is 0: 1 and 3 are outside
    array([[-1.,  1.]], dtype=float32)
    >>> layer(x, training=True).numpy().T  # it is 2: 1 and 3 are inside [-0.4, 4.4]
    array([[1., 3.]], dtype=float32)

    Reference:
        Alsobhi et al., 2022, https://arxiv.org/abs/2211.02050, for the rule.
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        band=1.2,
        threshold=0.0,
        *,
        open_share_metric=False,
        **kwargs,
    ):
        super().__init__(axis, momentum, epsilon, **kwargs)
        self.band = band
        self.threshold = threshold
        self.open_share_metric = open_share_metric
        check_arguments(self, ["band", "threshold", "open_share_metric"], self._owner)
        require(
            self.virtual_batch_size is None,
            self._owner,
            "the gate is one for the whole batch, so `virtual_batch_size` cannot divide it",
            virtual_batch_size=self.virtual_batch_size,
        )
        require(
            self.accumulate_steps == 1,
            self._owner,
            "the gate opens for each batch, and only what it opens for enters the moving "
            "statistics, so `accumulate_steps` cannot make one batch of several",
            accumulate_steps=self.accumulate_steps,
        )
        if self.open_share_metric:
            self.open_share = keras.metrics.Mean(name=f"{printable(self.name)}_open_share")

    def _check_build(self, axes):
        super()._check_build(axes)
        rule = "axis 0 is that of the samples, and cannot be a channel axis"
        require(0 not in axes, self._owner, rule, axis=plain(self.axis))

    def _add_state(self, shape):
        super()._add_state(shape)
        for name, initializer in zip(GATE_WEIGHTS, ("zeros", "ones"), strict=True):
            setattr(self, name, add_moving_statistic(self, name, (), initializer))

    def _read_state(self):
        of_gate = {name: self._vector(getattr(self, name)) for name in GATE_WEIGHTS}
        return super()._read_state() | of_gate

    def _statistic(self, state):
        center = tf.cast(state["moving_sample_mean"], tf.float64)
        return GatedMomentsStatistic(center, self.band, self.threshold)

    def _formula(self, state):
        def formula(statistics, gamma=None, beta=None):
            mean, variance, share = statistics.mean, statistics.variance, statistics.open_share
            return self._affine_of(mean, variance, share, gamma, beta)

        return formula

    def _inference_affine(self, state, gamma=None, beta=None):
        mean, variance = (state[name] for name in self.kept.names)
        return self._affine_of(mean, variance, state["moving_open_share"], gamma, beta)

    def _affine_of(self, mean, variance, share, gamma, beta):
        """The average of the normalized and the plain input, by the share of the first.

        With `inverse = 1 / sqrt(variance + epsilon)` it is

            share * inverse * (x - mean) + (1 - share) * x  =  scale * (x - center)
            scale = share * inverse + 1 - share,  center = share * inverse / scale * mean
        """
        # Where nothing is normalized, a variance of 0 or a NaN has no part, in gradients either.
        normalizes = share > 0.0
        mean = tf.where(normalizes, mean, tf.zeros([], mean.dtype))
        inverse_stddev = tf.math.rsqrt(
            tf.where(normalizes, variance + self.epsilon, tf.ones([], variance.dtype))
        )
        scale = share * inverse_stddev + (1.0 - share)
        # 1 or 0 in training. A share between comes with stored statistics, which are constants.
        part = tf.stop_gradient(share * inverse_stddev / scale)
        return scale if gamma is None else gamma * scale, part * mean, beta

    def _stored(self, state):
        share = tf.cast(state["moving_open_share"], tf.float64)
        return super()._stored(state) | {"open_share": share}

    def _updated(self, state, statistics, enabled):
        is_open = statistics.open_share > 0.0
        rule = self._moving_average(state)
        takes = rule.takes(statistics)
        if enabled is not None:
            is_open, takes = tf.logical_and(is_open, enabled), tf.logical_and(takes, enabled)
        moments_rule = rule
        if self.momentum is None:
            # Mean and variance are averages of fewer batches: of those that opened the gate.
            share = tf.cast(state["moving_open_share"], tf.float64)
            batches = tf.round(share * tf.cast(state["step"], tf.float64))
            moments_rule = rule._replace(momentum=momentum_at(None, batches))
        moments = moments_rule.updated(
            *(state[name] for name in self.kept.names), statistics, is_open
        )
        new = dict(zip(self.kept.names, moments, strict=True))
        batch = statistics.sample_mean, statistics.open_share
        for name, value in zip(GATE_WEIGHTS, batch, strict=True):
            old = tf.cast(state[name], tf.float64)
            mixed = rule.momentum * old + (1.0 - rule.momentum) * value
            # A mean of samples that is not finite would keep the gate open for good.
            kept = tf.where(tf.logical_and(takes, tf.math.is_finite(value)), mixed, old)
            new[name] = tf.cast(kept, state[name].dtype)
        return new

    def _use_extras(self, run, state, updated, statistics, extras, enabled):
        if self.open_share_metric:
            run.once(self._update_metric, statistics, enabled)

    def _update_metric(self, statistics, enabled):
        counts = tf.reduce_any(statistics.count > 0.0)
        weight = tf.cast(counts if enabled is None else counts & enabled, tf.float32)
        share = tf.cast(tf.reshape(statistics.open_share, []), tf.float32)
        self.open_share.update_state(share, sample_weight=weight)
