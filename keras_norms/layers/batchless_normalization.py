"""Batchless Normalization: the statistics are parameters, and instances are independent."""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.keras_api import keras
from keras_norms.keras_weights import add_moving_statistic, add_parameter
from keras_norms.layers.advice import warn_of_initial_statistics
from keras_norms.layers.channels import ChannelNormalization, argument_names
from keras_norms.layers.keras_2 import registered
from keras_norms.layers.rematerialization import run_of
from keras_norms.layers.rules import check_arguments, check_choice
from keras_norms.ops.affine import affine
from keras_norms.ops.rectifier import add_and_rectify
from keras_norms.statistics.given import normalize_given
from keras_norms.statistics.parametrization import PARAMETRIZATIONS


class Statistics(NamedTuple):
    """What a `BatchlessNormalization` normalizes with, of the shape of its weights."""

    mean: tf.Tensor
    stddev: tf.Tensor


@registered
class BatchlessNormalization(ChannelNormalization):
    """Normalizes by a mean and a standard deviation that are trained, not taken from the batch.

    Training and inference, per channel:

        y = gamma * (x - mean) / stddev + beta

    In training the layer also adds a loss whose value is exactly 0 and whose gradient is that of
    the negative log-likelihood of a Gaussian, averaged over the channels:

        nll = mean(log(stddev) + E[z^2] / 2),  z = (stop_gradient(x) - mean) / stddev

    `E` is the mean over the batch and all other axes, masked positions left out. Only this loss
    moves `mean` and `stddev`, and it moves nothing else: the task's gradient of the inputs is
    `gamma / stddev * dy`. So nothing ties the instances of a batch together: the gradients of N
    batches of one instance, averaged, are those of one batch of N, and replicas need no
    communication in the layer.

    Use it for batches of one, for streams, and where memory holds few instances. Start with
    `initialize_statistics`, which takes the statistics from data, keep the learning rate moderate,
    and watch `E[z^2]`, which should stay near 1: see `monitor`. Not where large batches fit: there
    batch normalization, whose gradient takes the statistics into account, is more robust. Weight
    decay should leave `mean` and `stddev` alone: see `statistics_weights`.

    Args:
        axis: the channel axis, or several. Defaults to `-1`.
        epsilon: added to the magnitude of what is stored; unused by `"log"`. Defaults to `1e-5`.
        center, scale: whether there is a `beta`, a `gamma`. Default to `True`.
        beta_initializer, gamma_initializer: Default to `"zeros"` and `"ones"`.
        mean_initializer, stddev_initializer: of the statistics, whatever the parametrization. The
            standard deviation must be above 0. Default to `"zeros"` and `"ones"`.
        beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint: Default to `None`.
        parametrization: which weight stands for the standard deviation. `"log"` is `log_stddev`,
            `"abs"` is `stddev`, of either sign, and `"inv"` is `inverse_stddev`. With `"inv"`
            a step has the larger effect the smaller the weight is, so it needs the smallest
            learning rates. Defaults to `"log"`.
        nll_weight: the weight of the loss, at least 0; 0 freezes the statistics.
            Defaults to `1.0`.
        learning_rate_multiplier: how many times faster than other weights the statistics move, a
            number above 0. The weights then hold the statistics divided by it, which has the
            same effect under SGD, with or without momentum, and under Adam, where scaling the
            gradient would have none. Since the loss is an average over channels, statistics of wide
            layers are slow under plain SGD: raise it there. Defaults to `1.0`.
        monitor: None, or the momentum in [0, 1) of a moving average of `E[z^2]`, kept in the weight
            `second_moment`, which starts at 1. `callbacks.SecondMomentMonitor` reads it.
            Defaults to `None`.
        **kwargs: `activation` (see `BatchNormalization`), `frozen` (see `freeze_batch_norm`), and
            those of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor `(batch, ..., channels, ...)`.
        training: whether to add the loss. Defaults to `False`.
        mask: as in `BatchNormalization`; positions of weight 0 are left out of `E`.

    Weights: `gamma`, `beta`, `mean` and `log_stddev`, `stddev` or `inverse_stddev`, all trained;
    `second_moment` where there is a `monitor`. With a `learning_rate_multiplier` the weights are
    the statistics divided by it, so they fit only a layer with the same one; `statistics` reads
    and `assign_statistics` sets the values themselves.

    A model may not train the layer inside a `tf.function` of its own, a `tf.cond` or a loop of
    TensorFlow (an RNN that is not unrolled), which the loss could not leave.

    Raises:
        ValueError: for an invalid argument, input or mask.
        RuntimeError: where the loss could not reach `model.losses`.

    Example:

    >>> layer = keras_norms.BatchlessNormalization()
    >>> layer.build((None, 1))
    >>> layer.assign_statistics(mean=[2.0], stddev=[4.0])
    >>> layer(tf.constant([[2.0], [10.0]]), training=True).numpy().T
    array([[0., 2.]], dtype=float32)
    >>> [float(loss) for loss in layer.losses]
    [0.0]

    Reference:
        Berger and Uc Cetina, 2022, https://arxiv.org/abs/2212.14729.
    """

    def __init__(
        self,
        axis=-1,
        epsilon=1e-5,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        mean_initializer="zeros",
        stddev_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        parametrization="log",
        nll_weight=1.0,
        *,
        learning_rate_multiplier=1.0,
        monitor=None,
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
        self.mean_initializer = keras.initializers.get(mean_initializer)
        self.stddev_initializer = keras.initializers.get(stddev_initializer)
        self.parametrization = parametrization
        self.nll_weight = nll_weight
        self.learning_rate_multiplier = learning_rate_multiplier
        self.monitor = monitor
        check_choice(self, "parametrization", tuple(PARAMETRIZATIONS), self._owner)
        check_arguments(self, argument_names(BatchlessNormalization), self._owner)
        # The first training call warns of statistics that nobody chose.
        defaults = keras.initializers.Zeros, keras.initializers.Ones
        chosen = self.mean_initializer, self.stddev_initializer
        self._may_be_initial = all(map(isinstance, chosen, defaults))

    def _add_state(self, shape):
        def initial_mean(shape, dtype=None):
            return self._divided(tf.cast(self.mean_initializer(shape, dtype=dtype), dtype))

        def initial_stored(shape, dtype=None):
            stddev = tf.cast(self.stddev_initializer(shape, dtype=dtype), dtype)
            if tf.executing_eagerly() and not np.all(stddev > 0):
                raise ValueError(
                    f"{self._owner}: `stddev_initializer` must give numbers above 0. "
                    f"Received: {np.min(stddev):g}."
                )
            return self._divided(self._stddev_rule.stored(stddev, self.epsilon))

        self.mean = add_parameter(self, "mean", shape, initializer=initial_mean)
        name = self._stddev_rule.weight
        setattr(self, name, add_parameter(self, name, shape, initializer=initial_stored))
        if self.monitor is not None:
            self.second_moment = add_moving_statistic(self, "second_moment", (), "ones")

    def call(self, inputs, training=None, mask=None, residual=None):
        x, weights, axis, restore = self._viewed(inputs, mask)
        training = self._mode(training)
        after = self._after(residual, inputs)
        mean, stored, inverse_stddev = self._read_statistics()
        scale, center, shift = self._affine(mean, inverse_stddev, **self._read_parameters())
        if training is False:
            y = affine(x, scale, center, shift, axis=axis, weights=weights, **after)
            return self._finished(restore(y), residual)
        self._advise()
        y, deviations = normalize_given(x, scale, center, shift, axis=axis, weights=weights)
        y = add_and_rectify(y, **after)
        # Where a mask leaves nothing there is nothing to follow.
        use = deviations.count > 0.0
        use = use if training is True else use & training
        run = run_of(self, self._owner)
        loss_of = functools.partial(self._loss, deviations, center, use)
        loss, second_moment = loss_of(mean, stored, inverse_stddev)
        run.add_loss(loss, anew=lambda: loss_of(*self._read_statistics())[0])
        if self.monitor is not None:
            run.once(self._update_monitor, second_moment, use)
        return self._finished(restore(y), residual)

    def _read_statistics(self, dtype=None):
        """The mean, what is stored for the standard deviation, and its inverse."""
        mean, stored = (self._multiplied(self._vector(v, dtype)) for v in self.statistics_weights)
        return mean, stored, self._stddev_rule.inverse(stored, self.epsilon)

    @property
    def statistics_weights(self):
        """The weights that stand for the mean and the standard deviation.

        To keep them from weight decay: `keras_norms.exclude_statistics_from_weight_decay`.
        """
        return [self.mean, getattr(self, self._stddev_rule.weight)] if self.built else []

    @property
    def statistics(self):
        """The `Statistics(mean, stddev)` that the layer normalizes with now."""
        return self._statistics_of(*map(tf.convert_to_tensor, self.statistics_weights))

    def _statistics_of(self, mean, stored):
        mean, stored = map(self._multiplied, (mean, stored))
        return Statistics(mean, tf.abs(1.0 / self._stddev_rule.inverse(stored, self.epsilon)))

    def assign_statistics(self, mean, stddev):
        """Sets the mean and the standard deviation that the layer normalizes with.

        Raises:
            ValueError: if they are not finite in the dtype of the weights, the standard deviation
                is not above 0 (for `"abs"`, above epsilon), they do not have the size of the
                weights, or the layer is not built. Nothing is set then.
        """
        require(self.built, self._owner, "a layer must be built for statistics", built=self.built)
        given = [np.asarray(value, np.float64) for value in (mean, stddev)]
        if any(value.size != np.prod(self.mean.shape) for value in given):
            raise ValueError(
                f"{self._owner}: statistics must have the shape of the weights, "
                f"{tuple(self.mean.shape)}. Received: shapes {given[0].shape}, {given[1].shape}."
            )
        stored = self._stddev_rule.stored(tf.constant(given[1]), self.epsilon)
        values = [
            tf.reshape(tf.cast(self._divided(value), weight.dtype), weight.shape)
            for value, weight in zip((given[0], stored), self.statistics_weights, strict=True)
        ]
        held = self._statistics_of(*values)
        least = self.epsilon if self.parametrization == "abs" else 0.0
        is_sound = np.isfinite(held).all() and (held.stddev.numpy() > 0).all()
        if not is_sound or not (given[1] > least).all():
            raise ValueError(
                f"{self._owner}: statistics must be finite, the standard deviation above "
                f"{least:g}. Received: mean={given[0]}, stddev={given[1]}."
            )
        for weight, value in zip(self.statistics_weights, values, strict=True):
            weight.assign(value)

    def _advise(self):
        """At the first training call. Outside of the graph, so that training costs nothing."""
        if not self._may_be_initial or not self.nll_weight:
            return
        with tf.init_scope():
            if not tf.executing_eagerly():
                return
            mean, stddev = map(np.asarray, self.statistics)
        self._may_be_initial = False
        warn_of_initial_statistics(mean, stddev, self._owner)

    def _affine(self, mean, inverse_stddev, gamma=None, beta=None):
        """Scale, center and shift; the statistics are constants here."""
        scale = tf.stop_gradient(inverse_stddev)
        return scale if gamma is None else gamma * scale, tf.stop_gradient(mean), beta

    def _loss(self, deviations, center, use, mean, stored, inverse_stddev):
        """The loss that moves the statistics, and `E[z^2]` of each channel."""
        mean_square = deviations.mean_square(tf.cast(mean - center, tf.float64))
        second_moment = mean_square * tf.square(tf.cast(inverse_stddev, tf.float64))
        log_stddev = self._stddev_rule.log(stored, self.epsilon)
        nll = tf.cast(log_stddev, tf.float64) + 0.5 * second_moment
        nll = tf.reduce_mean(tf.where(use, nll, tf.zeros_like(nll)))
        loss = tf.cast(self.nll_weight * (nll - tf.stop_gradient(nll)), mean.dtype)
        return loss, second_moment

    def _update_monitor(self, second_moment, use):
        old = tf.convert_to_tensor(self.second_moment)
        new = tf.reduce_mean(tf.where(use, tf.cast(second_moment, old.dtype), old))
        mixed = self.monitor * old + (1.0 - self.monitor) * new
        self.second_moment.assign(tf.where(tf.math.is_finite(old), mixed, new))

    @property
    def _stddev_rule(self):
        return PARAMETRIZATIONS[self.parametrization]

    def _divided(self, value):
        return value / self.learning_rate_multiplier

    def _multiplied(self, stored):
        """What a weight stands for, with the gradient of the weight itself.

        A step of the weight is a step of what it stands for times the multiplier. Were the
        gradient multiplied too, SGD would make steps of its square.
        """
        if self.learning_rate_multiplier == 1.0:
            return stored
        return stored + tf.stop_gradient((self.learning_rate_multiplier - 1.0) * stored)
