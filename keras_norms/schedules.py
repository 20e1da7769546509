"""Numbers that change with the training step, for arguments such as `r_max`."""

import numpy as np
import tensorflow as tf

from keras_norms.arguments import is_number, plain, require
from keras_norms.keras_api import is_variable, keras
from keras_norms.printable import printable

Schedule = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable(package="keras_norms")
class LinearRamp(keras.optimizers.schedules.LearningRateSchedule):
    """One value up to a step, another from a later step on, and a straight line between them.

        slope = (end_value - start_value) / (end_step - start_step)
        value = start_value + slope * (clip(step, start_step, end_step) - start_step)

    Use it where a layer takes a schedule; it is a Keras learning-rate schedule too, and saved
    with the layer. Not where the number of steps is unknown.

    Args:
        start_step: the last step with `start_value`, at least 0.
        end_step: the first step with `end_value`, above `start_step`.
        start_value: a finite number.
        end_value: a finite number.

    Raises:
        ValueError: for an invalid argument.

    Example:

    >>> ramp = keras_norms.schedules.LinearRamp(10, 20, 1.0, 3.0)
    >>> [float(ramp(step)) for step in (0, 10, 15, 20, 1000)]
    [1.0, 1.0, 2.0, 3.0, 3.0]
    """

    def __init__(self, start_step, end_step, start_value, end_value):
        for name, value in (("start_step", start_step), ("end_step", end_step)):
            rule = f"`{name}` must be a number, at least 0"
            require(is_number(value, 0), "LinearRamp", rule, **{name: value})
        for name, value in (("start_value", start_value), ("end_value", end_value)):
            rule = f"`{name}` must be a finite number"
            require(is_number(value), "LinearRamp", rule, **{name: value})
        require(
            start_step < end_step,
            "LinearRamp",
            "`end_step` must be above `start_step`",
            start_step=start_step,
            end_step=end_step,
        )
        self.start_step = start_step
        self.end_step = end_step
        self.start_value = start_value
        self.end_value = end_value

    @classmethod
    def of_total(cls, total_steps, start, end, start_value, end_value):
        """A ramp between shares of a training of `total_steps` steps.

        >>> ramp = keras_norms.schedules.LinearRamp.of_total(1000, 0.03, 0.25, 1.0, 3.0)
        >>> ramp.start_step, ramp.end_step
        (30, 250)
        """
        require(
            is_number(total_steps, 1),
            "LinearRamp",
            "`total_steps` must be a number, at least 1",
            total_steps=total_steps,
        )
        require(
            is_number(start, 0, 1) and is_number(end, 0, 1) and start < end,
            "LinearRamp",
            "`start` and `end` must be shares with 0 <= start < end <= 1",
            start=start,
            end=end,
        )
        return cls(round(start * total_steps), round(end * total_steps), start_value, end_value)

    def __call__(self, step):
        # The line through both points, cut off at them: few operations, since it runs every step.
        slope = (self.end_value - self.start_value) / (self.end_step - self.start_step)
        line = tf.cast(step, tf.float64) * slope + (self.start_value - slope * self.start_step)
        low, high = sorted((float(self.start_value), float(self.end_value)))
        return tf.minimum(tf.maximum(line, low), high)

    def __repr__(self):
        return "LinearRamp({}, {}, {}, {})".format(*self.get_config().values())

    def get_config(self):
        return {
            "start_step": self.start_step,
            "end_step": self.end_step,
            "start_value": self.start_value,
            "end_value": self.end_value,
        }


def schedule_or_number(value, name, low, owner, high=np.inf):
    """`value` as a float or a schedule that can be saved.

    Args:
        value: a number, a Keras schedule, or the config of one.
        name: of the argument, for the message.
        low: the least that it may be. A schedule is asked for its value at step 0.
        owner: for the message.
        high: the most that it may be.

    Raises:
        ValueError: for anything else, and for numbers outside of these limits.
    """
    limits = f", at least {low}," if high == np.inf else f" in [{low:g}, {high:g}]"
    rule = f"`{name}` must be a number{limits} or a Keras schedule"
    if isinstance(value, dict):
        value = _schedule_of(value)
    if not isinstance(value, Schedule):
        # An infinite number is a limit that never binds.
        require(is_number(value, low, high, may_be_infinite=True), owner, rule, **{name: value})
        return float(value)
    if tf.compat.v1.executing_eagerly_outside_functions():  # Otherwise there is no number to see.
        _check_first_value(value, name, low, high, owner, rule)
    try:
        keras.optimizers.schedules.serialize(value)
    except Exception as error:
        raise ValueError(
            f"{owner}: {rule} that can be saved. Received: {name}={value!r}, without a "
            "`get_config`."
        ) from error
    return value


def _schedule_of(config):
    """The schedule of a config, by its registered name first.

    Keras 2 reads .h5 files by the class name alone, and knows only its own classes by that.
    """
    registered = keras.saving.get_registered_object(str(config.get("registered_name")))
    if registered is not None and "config" in config:
        return registered.from_config(config["config"])
    return keras.optimizers.schedules.deserialize(config)


def _check_first_value(schedule, name, low, high, owner, rule):
    try:
        with tf.init_scope():  # A layer may be made while a function is traced.
            first = np.asarray(schedule(tf.constant(0, tf.int64)), float)
    except Exception as error:
        raise ValueError(
            f"{owner}: {rule}. Received: {name}={schedule!r}, which at step 0 fails: "
            f"{printable(error)}"
        ) from error
    if first.shape != () or not low <= first <= high:
        raise ValueError(
            f"{owner}: {rule}. Received: {name}={schedule!r}, which at step 0 is {first}."
        )


def value_at(schedule, step, low):
    """A float64 scalar, never below `low` whatever the schedule does later."""
    if not isinstance(schedule, Schedule):
        return tf.constant(max(schedule, low), tf.float64)
    value = tf.cast(schedule(step), tf.float64)
    is_above = (
        isinstance(schedule, LinearRamp) and min(schedule.start_value, schedule.end_value) >= low
    )
    return value if is_above else tf.maximum(value, low)


def checked_momentum(value, owner):
    """A momentum as layers keep it: a float, a schedule, a variable, or None.

    Raises:
        ValueError: for anything else, and for values outside of [0, 1].
    """
    if value is None:
        return None
    if is_variable(value):
        holds = np.shape(value) == () and is_number(float(value), 0, 1)
        rule = "a variable for `momentum` must hold a number in [0, 1]"
        require(holds, owner, rule, momentum=value)
        return value
    if isinstance(value, (dict, Schedule)):
        return schedule_or_number(value, "momentum", 0.0, owner, high=1.0)
    rule = "`momentum` must be a number in [0, 1], a schedule, a variable or None"
    require(is_number(value, 0, 1), owner, rule, momentum=value)
    return value


def momentum_at(momentum, step):
    """The share of the old value kept at this training call: a number or a scalar tensor.

    Without a momentum it is `step / (step + 1)`, which averages all calls alike.
    """
    if momentum is None:
        calls = tf.cast(step, tf.float64)
        return calls / (calls + 1.0)
    if is_number(momentum):
        return momentum
    now = momentum(step) if isinstance(momentum, Schedule) else momentum
    return tf.clip_by_value(tf.cast(now, tf.float64), 0.0, 1.0)


def needs_step(momentum):
    """Whether `momentum_at` reads the step."""
    return momentum is None or isinstance(momentum, Schedule)


def moves_after(schedule, step):
    """Whether a schedule may have another value at a later step."""
    if isinstance(schedule, LinearRamp):
        return int(step) < schedule.end_step
    return isinstance(schedule, Schedule)


def as_config(value):
    """What JSON can hold of an argument, which may be a schedule."""
    is_schedule = isinstance(value, Schedule)
    if is_variable(value):
        return float(value)
    return keras.optimizers.schedules.serialize(value) if is_schedule else plain(value)
