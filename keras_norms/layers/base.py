"""What all batch-statistics layers share: arguments, weights, masks, modes, updates.

A layer of the family overrides the one thing that it changes: `_formula`, the vectors that it
normalizes with, `_statistic`, what it takes of a batch, or what it remembers, `kept` and
`_updated`.
"""

import math

import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.keras_api import is_variable, keras
from keras_norms.keras_weights import add_moving_statistic, add_step
from keras_norms.layers.advice import has_single_values, warn_of_single_values
from keras_norms.layers.channels import ChannelNormalization, Untracked, argument_names
from keras_norms.layers.rematerialization import run_of
from keras_norms.layers.rules import check_arguments, check_batch_options, check_may_build
from keras_norms.layers.stock_config import stock_config
from keras_norms.ops.affine import affine
from keras_norms.schedules import checked_momentum, momentum_at, needs_step
from keras_norms.statistics.accumulation import add_to_window, add_window
from keras_norms.statistics.effective_size import SIZED_MOMENTS
from keras_norms.statistics.moments import MOMENTS
from keras_norms.statistics.moving_average import MovingAverage, MovingUpdate
from keras_norms.statistics.moving_statistics import MOVING_VARIANCE
from keras_norms.statistics.normalize import ALONE, normalize_batch
from keras_norms.statistics.replicas import ReplicaGroup
from keras_norms.statistics.standardization import Standardization, or_stored


class BatchNormalizationBase(ChannelNormalization):
    """See `BatchNormalization`, whose arguments these are."""

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
        accumulate_steps=1,
        **kwargs,
    ):
        super().__init__(
            axis=axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        # Keras would count a variable that is an attribute among the weights.
        self._momentum = Untracked(checked_momentum(momentum, self._owner))
        self.moving_mean_initializer = keras.initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = keras.initializers.get(moving_variance_initializer)
        self.synchronized = synchronized
        self.group_size = group_size
        self.virtual_batch_size = virtual_batch_size
        self._has_advised = False
        self.unbiased_moving_variance = unbiased_moving_variance
        self.skip_nonfinite_updates = skip_nonfinite_updates
        self.max_update = max_update
        self.accumulate_steps = accumulate_steps
        check_arguments(self, argument_names(BatchNormalizationBase), self._owner)
        check_batch_options(self, self._owner)

    def call(self, inputs, training=None, mask=None, residual=None):
        arguments, finish = self.begin(inputs, training, mask, residual)
        return finish(None if arguments is None else normalize_batch(**arguments))

    def begin(self, inputs, training=None, mask=None, residual=None):
        """A call up to its statistics: arguments of `normalize_batch`, and what takes its result.

        In inference there are no arguments. The function returns the output.
        """
        x, weights, axis, restore = self._viewed(inputs, mask)
        training = self._mode(training)
        after = self._after(residual, inputs)
        parameters = self._read_parameters()
        if training is False:
            y = self._infer(x, self._read_state(), parameters, axis, weights, after)
            return None, lambda found: self._finished(restore(y), residual)
        enabled = None if training is True else training
        self._advise(x.shape.as_list(), axis)
        run = run_of(self, self._owner)
        state = run.once(self._read_state)
        arguments = dict(
            x=x,
            transform=self._transform(state, enabled, may_be_empty=weights is not None),
            parameters=parameters,
            statistic=self._statistic(state),
            axis=axis,
            weights=weights,
            segment_size=self.virtual_batch_size,
            group=self.replica_group,
            write=self._writer(axis, weights),
            moving=self._moving_update(state, enabled),
            **after,
        )

        def finish(found):
            updated = run.once(self._update, state, found.statistics, found.moved, enabled)
            self._use_extras(run, state, updated, found.statistics, found.extras, enabled)
            return self._finished(restore(found.y), residual)

        return arguments, finish

    @property
    def momentum(self):
        """The share of the old moving value kept: a number, a schedule, a variable or None."""
        return self._momentum.value

    @momentum.setter
    def momentum(self, value):
        """Acts on what is traced from then on, as in stock Keras. A variable acts at once."""
        rule = "a variable for `momentum` is given at construction"
        require(not is_variable(value), self._owner, rule, momentum=value)
        value = checked_momentum(value, self._owner)
        rule = "a `momentum` that needs a count of steps is given at construction"
        has_steps = not self.built or self.counts_steps
        require(has_steps or not needs_step(value), self._owner, rule, momentum=value)
        self._momentum = Untracked(value)

    def read_statistic(self):
        """The `Statistic` that training takes of a batch, at the layer's state now."""
        return self._statistic(self._read_state())

    def parts_of(self, statistic, inputs, mask=None):
        """The parts of a statistic of what a call receives, before replicas or virtual batches."""
        x, weights, axis, _ = self._viewed(inputs, mask)
        return statistic.local(x, axis=axis, weights=weights, segment_size=None)[0]

    # What a layer of the family overrides:

    @property
    def kept(self):
        """The kind of spread that is remembered beside the mean."""
        return MOVING_VARIANCE

    @property
    def counts_steps(self):
        """Whether the layer has a `step`, the number of its updates."""
        return needs_step(self.momentum)

    def _statistic(self, state):
        """What is taken of each batch; see `Statistic`."""
        del state
        return SIZED_MOMENTS if self.unbiased_moving_variance else MOMENTS

    def _formula(self, state):
        """The transform of `normalize_batch`, from the state. It may not read variables."""
        del state
        return Standardization(self.epsilon, self.kept)

    def _stored(self, state):
        """What inference reads of the state, by the names that it has in the batch's statistics."""
        mean, spread = (tf.cast(state[name], tf.float64) for name in self.kept.names)
        return self.kept.as_statistics(mean, spread, self.epsilon)

    def _updated(self, state, statistics, enabled):
        """The new state by name, without the step. `enabled` is None or a bool tensor."""
        old = [state[name] for name in self.kept.names]
        new = self._moving_average(state).updated(*old, statistics, enabled)
        return dict(zip(self.kept.names, new, strict=True))

    def _infer(self, x, state, parameters, axis, weights, after):
        """`y` of inference; `after` holds the residual and the rectifier of the call."""
        scale, center, shift = self._inference_affine(state, **parameters)
        return affine(x, scale, center, shift, axis=axis, weights=weights, **after)

    def _writer(self, axis, weights):
        """How training computes `y`; see `normalize_batch`."""
        del axis, weights

    def _use_extras(self, run, state, updated, statistics, extras, enabled):
        """Takes what the formula gave beyond the vectors, for a loss or a metric of the `Run`."""
        del run, state, updated, statistics, extras, enabled  # AutoGraph wants a statement.

    # The mechanism.

    def _add_state(self, shape):
        def initial_spread(shape, dtype=None):
            variance = tf.cast(self.moving_variance_initializer(shape, dtype=dtype), dtype)
            return self.kept.of_variance(variance, self.epsilon)

        initializers = self.moving_mean_initializer, initial_spread
        for name, initializer in zip(self.kept.names, initializers, strict=True):
            setattr(self, name, add_moving_statistic(self, name, shape, initializer))
        if self.counts_steps:
            self.step = add_step(self, "step")
        if self.accumulate_steps > 1:
            add_window(self, self._statistic({}), math.prod(shape))

    def _read_state(self):
        """The values of the state before this call, by name."""
        state = {name: self._vector(getattr(self, name)) for name in self.kept.names}
        if self.counts_steps:
            state["step"] = tf.convert_to_tensor(self.step)
        return state

    def _inference_affine(self, state, gamma=None, beta=None):
        """Scale, center and shift for inference, from the state."""
        inverse_stddev = self.kept.inverse_stddev(state[self.kept.spread], self.epsilon)
        scale = inverse_stddev if gamma is None else gamma * inverse_stddev
        return scale, state["moving_mean"], beta

    def _update(self, state, statistics, moved, enabled):
        """Remembers the batch, and returns the new state. `enabled` is None or a bool tensor."""
        if self.accumulate_steps > 1:
            statistic, size = self._statistic(state), self.accumulate_steps
            statistics, enabled = add_to_window(self, statistic, statistics, size, enabled)
        if moved is None:
            new = self._updated(state, statistics, enabled)
        else:
            new = dict(zip(self.kept.names, moved, strict=True))
        for name, value in new.items():
            self._assign(getattr(self, name), value)
        if self.counts_steps:
            # The average of all batches is one of those that are in it.
            counts = self.momentum is not None or self._moving_average(state).takes(statistics)
            is_step = counts if enabled is None else tf.logical_and(counts, enabled)
            self.step.assign(state["step"] + tf.cast(is_step, tf.int64))
        return new

    def _check_build(self, axes):
        if self.virtual_batch_size is not None and 0 in axes:
            raise ValueError(
                f"{self._owner}: `virtual_batch_size` divides axis 0, which therefore cannot be "
                f"a channel axis. Received: axis={self.axis}."
            )
        if self.synchronized:
            check_may_build(self._owner)

    def _advise(self, shape, axis):
        size = self.virtual_batch_size
        if size and not self._has_advised and has_single_values(shape, axis, size):
            self._has_advised = True
            warn_of_single_values(shape, size, self._owner)

    def _moving_average(self, state):
        return MovingAverage(
            momentum=momentum_at(self.momentum, state.get("step")),
            epsilon=self.epsilon,
            kept=self.kept,
            unbiased=self.unbiased_moving_variance,
            skip_nonfinite=self.skip_nonfinite_updates,
            max_update=self.max_update,
            owner=self._owner,
        )

    def _moving_update(self, state, enabled):
        """The update, where nothing but the batch of this call enters, and always."""
        if enabled is not None or self.accumulate_steps > 1:
            return None
        return MovingUpdate(self._moving_average(state), *map(state.get, self.kept.names))

    @property
    def replica_group(self):
        """The replicas that share statistics with this one."""
        if not self.synchronized:
            return ALONE
        return ReplicaGroup(self.group_size, self._owner)

    def _transform(self, state, enabled, may_be_empty):
        """The formula, with the stored statistics where the batch's are not to be used."""
        formula = self._formula(state)
        if enabled is None and not may_be_empty:
            return formula
        return or_stored(formula, self._stored(state), enabled)

    @classmethod
    def from_config(cls, config):
        """Also takes the config of a stock Keras `BatchNormalization`, of Keras 2 or 3."""
        return super().from_config(stock_config(cls.__name__, config))
