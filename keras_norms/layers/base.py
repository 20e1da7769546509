"""What all batch-statistics layers share: arguments, weights, masks, modes, updates.

A layer of the family overrides the one thing that it changes: `_affine`, the vectors
that it normalizes with, `_update`, what it remembers, or `statistic`.
"""

import functools

import tensorflow as tf

from keras_norms.layers.channels import ChannelNormalization
from keras_norms.layers.keras_api import add_moving_statistic, check_may_build, keras
from keras_norms.layers.validation import check_arguments, static_if_possible, stock_config
from keras_norms.ops.kernels import blend
from keras_norms.statistics.moments import MOMENTS, pool_segments
from keras_norms.statistics.moving_average import MovingAverage
from keras_norms.statistics.normalize import ALONE, normalize_batch
from keras_norms.statistics.replicas import ReplicaGroup


class BatchNormalizationBase(ChannelNormalization):
    """See `BatchNormalization`, whose arguments these are."""

    statistic = MOMENTS
    config_names = (
        *ChannelNormalization.config_names,
        "momentum",
        "moving_mean_initializer",
        "moving_variance_initializer",
        "synchronized",
        "group_size",
        "virtual_batch_size",
        "unbiased_moving_variance",
        "skip_nonfinite_updates",
        "max_update",
    )

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        synchronized=False,
        *,
        group_size=None,
        virtual_batch_size=None,
        unbiased_moving_variance=False,
        skip_nonfinite_updates=False,
        max_update=None,
        **kwargs,
    ):
        super().__init__(
            axis,
            epsilon,
            center,
            scale,
            beta_initializer,
            gamma_initializer,
            beta_regularizer,
            gamma_regularizer,
            beta_constraint,
            gamma_constraint,
            **kwargs,
        )
        self.momentum = momentum
        self.moving_mean_initializer = keras.initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = keras.initializers.get(moving_variance_initializer)
        self.synchronized = synchronized
        self.group_size = group_size
        self.virtual_batch_size = virtual_batch_size
        self.unbiased_moving_variance = unbiased_moving_variance
        self.skip_nonfinite_updates = skip_nonfinite_updates
        self.max_update = max_update
        check_arguments(self, self._owner)

    def call(self, inputs, training=None, mask=None):
        x, weights, axis, restore = self._viewed(inputs, mask)
        training = static_if_possible(training, self._owner) if self.trainable else False
        state, parameters = self._read_state(), self._read_parameters()
        if training is False:
            scale, center, shift = self._inference_affine(state, **parameters)
            return restore(blend(v=x, b=scale, c=shift, center=center, axis=axis, weights=weights))
        enabled = None if training is True else training
        y, statistics, extras = normalize_batch(
            x,
            self._transform(state, enabled, weights),
            parameters,
            statistic=self.statistic,
            axis=axis,
            weights=weights,
            segment_size=self.virtual_batch_size,
            group=self._group(),
        )
        self._update(state, statistics, extras, enabled)
        return restore(y)

    # What a layer of the family overrides:

    def _add_state(self, shape):
        """Creates the weights that are not trained."""
        self.moving_mean = add_moving_statistic(
            self, "moving_mean", shape, self.moving_mean_initializer
        )
        self.moving_variance = add_moving_statistic(
            self, "moving_variance", shape, self.moving_variance_initializer
        )

    def _read_state(self):
        """The values of that state before this call, by name. `_affine` may not read variables."""
        return {
            "moving_mean": self._vector(self.moving_mean),
            "moving_variance": self._vector(self.moving_variance),
        }

    def _stored_statistics(self, state):
        """What inference uses in place of the batch's statistics, by their names there."""
        return {"mean": state["moving_mean"], "variance": state["moving_variance"]}

    def _affine(self, state, statistics, gamma=None, beta=None):
        """Scale, center, shift and any extras for training, from statistics of the batch."""
        del state
        inverse_stddev = tf.math.rsqrt(statistics.variance + self.epsilon)
        scale = inverse_stddev if gamma is None else tf.cast(gamma, tf.float64) * inverse_stddev
        return scale, statistics.mean, None if beta is None else tf.cast(beta, tf.float64)

    def _inference_affine(self, state, gamma=None, beta=None):
        """Scale, center and shift for inference, from the state."""
        inverse_stddev = tf.math.rsqrt(state["moving_variance"] + self.epsilon)
        scale = inverse_stddev if gamma is None else gamma * inverse_stddev
        return scale, state["moving_mean"], beta

    def _update(self, state, statistics, extras, enabled):
        """Remembers what inference needs. `enabled` is None or a bool tensor."""
        del extras
        if self.virtual_batch_size is not None:
            statistics = pool_segments(statistics)
        mean, variance = self._rule().updated(
            state["moving_mean"], state["moving_variance"], statistics, enabled
        )
        self.moving_mean.assign(tf.reshape(mean, self.moving_mean.shape))
        self.moving_variance.assign(tf.reshape(variance, self.moving_variance.shape))

    # The mechanism.

    def _check_build(self, axes):
        if self.virtual_batch_size is not None and 0 in axes:
            raise ValueError(
                f"{self._owner}: `virtual_batch_size` divides axis 0, which therefore cannot be "
                f"a channel axis. Received: axis={self.axis}."
            )
        if self.synchronized:
            check_may_build(self._owner)

    def _rule(self):
        options = self.unbiased_moving_variance, self.skip_nonfinite_updates, self.max_update
        return MovingAverage(self.momentum, self.epsilon, *options)

    def _group(self):
        if not self.synchronized:
            return ALONE
        return ReplicaGroup(self.group_size, self._owner)

    def _transform(self, state, enabled, weights):
        """`_affine`, with the stored statistics where the batch's are not to be used.

        That is where `training` is a tensor and false, and where a mask leaves nothing.
        They are selected by `where`, since a collective cannot be in a `tf.cond`.
        """
        if enabled is None and weights is None:
            return functools.partial(self._affine, state)

        def transform(statistics, **parameters):
            use_batch = statistics.count > 0.0
            if enabled is not None:
                use_batch = tf.logical_and(use_batch, enabled)
            selected = {
                name: tf.where(use_batch, getattr(statistics, name), tf.cast(stored, tf.float64))
                for name, stored in self._stored_statistics(state).items()
            }
            return self._affine(state, statistics._replace(**selected), **parameters)

        return transform

    @classmethod
    def from_config(cls, config):
        """Also takes the config of a stock Keras `BatchNormalization`, of Keras 2 or 3."""
        return super().from_config(stock_config(cls.__name__, config))
