"""What all batch-statistics layers share: arguments, weights, masks, modes, updates.

A layer of the family overrides the one thing that it changes: `_affine`, the vectors
that it normalizes with, `_update`, what it remembers, or `statistic`.
"""

import functools

import tensorflow as tf

from keras_norms.layers.keras_api import (
    add_moving_statistic,
    add_parameter,
    check_backend,
    check_may_build,
    keras,
)
from keras_norms.layers.validation import (
    check_arguments,
    plain,
    real_tensor,
    static_if_possible,
    stock_config,
)
from keras_norms.ops.kernels import blend
from keras_norms.ops.layout import ChannelView, canonical_axes
from keras_norms.ops.weights import row_weights
from keras_norms.statistics.moments import MOMENTS, pool_segments
from keras_norms.statistics.moving_average import MovingAverage
from keras_norms.statistics.normalize import ALONE, normalize_batch
from keras_norms.statistics.replicas import ReplicaGroup


class BatchNormalizationBase(keras.layers.Layer):
    """See `BatchNormalization`, whose arguments these are."""

    statistic = MOMENTS

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
        check_backend(type(self).__name__)
        super().__init__(**kwargs)
        self.supports_masking = True
        self.axis = axis
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.moving_mean_initializer = keras.initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = keras.initializers.get(moving_variance_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.synchronized = synchronized
        self.group_size = group_size
        self.virtual_batch_size = virtual_batch_size
        self.unbiased_moving_variance = unbiased_moving_variance
        self.skip_nonfinite_updates = skip_nonfinite_updates
        self.max_update = max_update
        check_arguments(self, self._owner)
        self.axis = [int(a) for a in axis] if isinstance(axis, (list, tuple)) else int(axis)

    def build(self, input_shape):
        axes = canonical_axes(self.axis, len(input_shape), self._owner)
        for axis in axes:
            if input_shape[axis] is None:
                raise ValueError(
                    f"{self._owner}: the size of a channel axis must be known to create the "
                    f"weights. Received: input_shape={tuple(input_shape)}, axis={self.axis}."
                )
        if self.virtual_batch_size is not None and 0 in axes:
            raise ValueError(
                f"{self._owner}: `virtual_batch_size` divides axis 0, which therefore cannot be "
                f"a channel axis. Received: axis={self.axis}."
            )
        if self.synchronized:
            check_may_build(self._owner)
        if len(axes) == 1:
            shape = (input_shape[axes[0]],)
        else:
            shape = tuple(n if a in axes else 1 for a, n in enumerate(input_shape))
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = add_parameter(
                self,
                "gamma",
                shape,
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = add_parameter(
                self,
                "beta",
                shape,
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )
        self._add_state(shape)
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={a: input_shape[a] for a in axes}
        )
        self.built = True

    def call(self, inputs, training=None, mask=None):
        inputs = self._checked(inputs)
        axes = canonical_axes(self.axis, inputs.shape.rank, self._owner)
        view = ChannelView(axes, inputs.shape.rank)
        x, weights = view.apply(inputs), row_weights(mask, inputs, axes, self._owner)
        weights = None if weights is None else view.apply(weights)
        training = static_if_possible(training, self._owner) if self.trainable else False
        state, parameters = self._read_state(), self._read_parameters()
        if training is False:
            scale, center, shift = self._inference_affine(state, **parameters)
            y = blend(v=x, b=scale, c=shift, center=center, axis=view.axis, weights=weights)
        else:
            enabled = None if training is True else training
            y, statistics, extras = normalize_batch(
                x,
                self._transform(state, enabled, weights),
                parameters,
                statistic=self.statistic,
                axis=view.axis,
                weights=weights,
                segment_size=self.virtual_batch_size,
                group=self._group(),
            )
            self._update(state, statistics, extras, enabled)
        return view.restore(y, inputs)

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

    @property
    def _owner(self):
        return f"{type(self).__name__} '{self.name}'"

    def _checked(self, inputs):
        """The inputs as a tensor of the compute dtype with known channel sizes."""
        inputs = real_tensor(inputs, "inputs", self._owner)
        shape = inputs.shape.as_list()
        if any(shape[a] is None for a in self.input_spec.axes):
            for a, size in self.input_spec.axes.items():
                shape[a] = size
            inputs = tf.ensure_shape(inputs, shape)
        return tf.cast(inputs, self.compute_dtype)

    def _rule(self):
        options = self.unbiased_moving_variance, self.skip_nonfinite_updates, self.max_update
        return MovingAverage(self.momentum, self.epsilon, *options)

    def _group(self):
        if not self.synchronized:
            return ALONE
        return ReplicaGroup(self.group_size, self._owner)

    def _vector(self, variable):
        value = tf.convert_to_tensor(variable)
        return value if value.shape.rank == 1 else tf.reshape(value, [-1])

    def _read_parameters(self):
        named = {"gamma": self.gamma, "beta": self.beta}
        return {name: self._vector(v) for name, v in named.items() if v is not None}

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

    def compute_output_shape(self, input_shape):
        canonical_axes(self.axis, len(input_shape), self._owner)
        return input_shape

    def get_config(self):
        serialize = {
            "initializer": keras.initializers.serialize,
            "regularizer": keras.regularizers.serialize,
            "constraint": keras.constraints.serialize,
        }
        config = super().get_config()
        for name in (
            "axis",
            "momentum",
            "epsilon",
            "center",
            "scale",
            "beta_initializer",
            "gamma_initializer",
            "moving_mean_initializer",
            "moving_variance_initializer",
            "beta_regularizer",
            "gamma_regularizer",
            "beta_constraint",
            "gamma_constraint",
            "synchronized",
            "group_size",
            "virtual_batch_size",
            "unbiased_moving_variance",
            "skip_nonfinite_updates",
            "max_update",
        ):
            value = getattr(self, name)
            config[name] = serialize.get(name.rpartition("_")[2], plain)(value)
        return config

    @classmethod
    def from_config(cls, config):
        """Also takes the config of a stock Keras `BatchNormalization`, of Keras 2 or 3."""
        return super().from_config(stock_config(cls.__name__, config))
