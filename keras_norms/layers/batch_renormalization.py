"""Batch Renormalization: batch statistics, corrected towards the moving ones."""

import functools

import tensorflow as tf

from keras_norms.keras_api import keras
from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.layers.keras_2 import registered
from keras_norms.layers.rules import check_arguments
from keras_norms.layers.stock_config import renorm_config
from keras_norms.printable import printable
from keras_norms.schedules import LinearRamp, schedule_or_number, value_at
from keras_norms.statistics.moving_statistics import MOVING_STDDEV

R_MAX = LinearRamp(5_000, 40_000, 1.0, 3.0)
D_MAX = LinearRamp(5_000, 25_000, 0.0, 5.0)


@registered
class BatchRenormalization(BatchNormalizationBase):
    """Normalizes by the batch, corrected so that training sees what inference will see.

    Training, per channel, with `mean` and `variance` of the batch as in `BatchNormalization`:

        stddev = sqrt(variance + epsilon)
        r      = stop_gradient(clip(stddev / moving_stddev, 1 / r_max, r_max))
        d      = stop_gradient(clip((mean - moving_mean) / moving_stddev, -d_max, d_max))
        y      = gamma * ((x - mean) / stddev * r + d) + beta
        moving = momentum * moving + (1 - momentum) * (mean, stddev), after r and d

    Inference, and training with `trainable = False`:

        y      = gamma * (x - moving_mean) / moving_stddev + beta

    Where neither limit binds, training computes what inference does, from the same statistics.
    With `r_max = 1` and `d_max = 0` it is batch normalization: the default schedules begin there,
    until the moving statistics mean something, and then open. The gradient of the inputs is
    `r` times that of batch normalization, so the correction costs no pass over the activation.

    Use it where a statistic has few instances: the fewer, the more it gained in our studies. Not
    where batches are large: then the batch's statistics are good enough. Where batches hold few
    classes, compare it with batch normalization first: with pairs of a class it gained nothing,
    and where groups were sorted by class it lost. It cannot replace all that a batch of two lacks;
    where replicas can communicate, `synchronized=True` does more. The default schedules are those
    of the paper, made for 130,000 steps and more. For a shorter training give shares of it:
    `LinearRamp.of_total(steps, 0.04, 0.3, 1.0, 3.0)`.

    Args:
        axis: see `BatchNormalization`, as for all but these. Defaults to `-1`.
        momentum: the share of the old moving value kept, in [0, 1]: a number, a Keras schedule
            of the layer's step, a variable, which acts at once when it is assigned, or `None` for
            the average of all training batches. Defaults to `0.99`.
        epsilon: added to the variance. Defaults to `1e-3`.
        r_max: a number, at least 1, or a schedule: how far the batch's standard deviation may be
            corrected. `float("inf")` never clips. The n-th training call, from 0, uses a schedule
            at n (with `accumulate_steps`, the calls after n updates do); where one falls below 1, 1
            is used. Defaults to `LinearRamp(5_000, 40_000, 1.0, 3.0)`.
        d_max: a number, at least 0, or a schedule: the same for the mean, in moving standard
            deviations. Defaults to `LinearRamp(5_000, 25_000, 0.0, 5.0)`.
        clipping_metrics: whether the shares of channels at which `r` and `d` were clipped are
            metrics of the model, `<layer>_r_clipped` and `<layer>_d_clipped`, over training calls
            (in an evaluation they stay 0). Defaults to `False`.
        **kwargs: all other arguments of `BatchNormalization`. `moving_variance_initializer` gives
            the square of the initial `moving_stddev`, less epsilon.

    With `accumulate_steps` above 1, `r` and `d` are those of each batch, towards the moving
    statistics as they stand, and limits move with the updates.

    Call arguments and shapes: as `BatchNormalization`.

    Weights: `gamma`, `beta`, `moving_mean`, `moving_stddev` of shape `(channels,)` and `step`, the
    number of updates so far, int64: a loaded model continues its schedule.

    Raises:
        ValueError: as `BatchNormalization`; for a limit below its least value, and for a schedule
            that does not return a number or cannot be saved.

    Example:

    >>> layer = keras_norms.BatchRenormalization(momentum=0.5, r_max=3.0, d_max=5.0, epsilon=0.0)
    >>> x = tf.constant([[1.0], [3.0]])
    >>> layer(x, training=True).numpy().T  # moving_mean is 0, moving_stddev 1
    array([[1., 3.]], dtype=float32)
    >>> float(layer.moving_mean[0]), float(layer.moving_stddev[0]), int(layer.step)
    (1.0, 1.0, 1)

    Reference:
        Ioffe, 2017, https://arxiv.org/abs/1702.03275, Algorithm 1.
    """

    kept = MOVING_STDDEV
    counts_steps = True

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        r_max=R_MAX,
        d_max=D_MAX,
        *,
        clipping_metrics=False,
        **kwargs,
    ):
        super().__init__(axis, momentum, epsilon, **kwargs)
        self.r_max = schedule_or_number(r_max, "r_max", 1.0, self._owner)
        self.d_max = schedule_or_number(d_max, "d_max", 0.0, self._owner)
        self.clipping_metrics = clipping_metrics
        check_arguments(self, ["clipping_metrics"], self._owner)
        if self.clipping_metrics:
            self.r_clipped = keras.metrics.Mean(name=f"{printable(self.name)}_r_clipped")
            self.d_clipped = keras.metrics.Mean(name=f"{printable(self.name)}_d_clipped")

    def _formula(self, state):
        moving_mean, moving_stddev = (tf.cast(state[name], tf.float64) for name in self.kept.names)
        r_max = value_at(self.r_max, state["step"], 1.0)
        d_max = value_at(self.d_max, state["step"], 0.0)
        given = {
            "exact_mean": moving_mean,
            "inverse": self.kept.inverse_stddev(moving_stddev, self.epsilon),
            "r_limits": (1.0 / r_max, r_max),
            "d_limits": (-d_max, d_max),
        }
        return functools.partial(self._renormalization, given)

    def _renormalization(self, given, statistics, gamma=None, beta=None):
        inverse_stddev = tf.math.rsqrt(statistics.variance + self.epsilon)
        constant_inverse, mean = map(tf.stop_gradient, (inverse_stddev, statistics.mean))
        exact_r = given["inverse"] / constant_inverse
        exact_d = (mean - given["exact_mean"]) * given["inverse"]
        r, d = (
            tf.minimum(tf.maximum(exact, low), high)
            for exact, (low, high) in ((exact_r, given["r_limits"]), (exact_d, given["d_limits"]))
        )
        scale, shift = r * inverse_stddev, d
        if gamma is not None:
            scale, shift = gamma * scale, gamma * shift
        if beta is not None:
            shift = shift + beta
        if not self.clipping_metrics:
            return scale, statistics.mean, shift
        shares = [
            tf.reduce_mean(tf.cast(clipped != exact, tf.float64))
            for clipped, exact in ((r, exact_r), (d, exact_d))
        ]
        return scale, statistics.mean, shift, *shares

    def _use_extras(self, run, state, updated, statistics, extras, enabled):
        if self.clipping_metrics:
            run.once(self._update_metrics, statistics, extras, enabled)

    def _update_metrics(self, statistics, shares, enabled):
        counts = tf.reduce_any(statistics.count > 0.0)
        weight = tf.cast(counts if enabled is None else counts & enabled, tf.float32)
        for metric, share in zip((self.r_clipped, self.d_clipped), shares, strict=True):
            metric.update_state(tf.cast(share, tf.float32), sample_weight=weight)

    @classmethod
    def from_config(cls, config):
        """Also takes the config of a stock `BatchNormalization(renorm=True)`."""
        return super().from_config(renorm_config(cls.__name__, config))
