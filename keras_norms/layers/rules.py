"""The rules for the arguments of layers, checked at construction, and for where they are built."""

import tensorflow as tf

from keras_norms.arguments import is_bool, is_int, is_number, is_size, require
from keras_norms.keras_api import IS_KERAS_3


def _is_axis(value):
    values = value if isinstance(value, (list, tuple)) else [value]
    return len(values) > 0 and all(map(is_int, values))


def _is_positive(value):
    return is_number(value, 0) and value > 0


def _or_none(rule):
    return lambda value: value is None or rule(value)


def _at_least_zero(value):
    return is_number(value, 0)


_BOOL = "must be a bool", is_bool
_SIZE = "must be a positive int or None", _or_none(is_size)
# For each argument that has a rule of its own: what it must be, and whether a value is.
RULES = {
    "axis": ("must be an int or a list of ints", _is_axis),
    "epsilon": ("must be a finite number, at least 0", _at_least_zero),
    "center": _BOOL,
    "scale": _BOOL,
    "synchronized": _BOOL,
    "group_size": (
        "must be a positive int, 'worker' or None",
        lambda value: value is None or is_size(value) or value == "worker",
    ),
    "virtual_batch_size": _SIZE,
    "block_size": _SIZE,
    "mantissa_bits": (
        "must be None or an int in [2, 24]",
        _or_none(lambda value: is_int(value) and 2 <= value <= 24),
    ),
    "num_chunks": ("must be an int above 0", is_size),
    "unbiased_moving_variance": _BOOL,
    "skip_nonfinite_updates": _BOOL,
    "max_update": ("must be a positive number or None", _or_none(_is_positive)),
    "accumulate_steps": ("must be an int above 0", is_size),
    "clipping_metrics": _BOOL,
    "band": ("must be a finite number, at least 0", _at_least_zero),
    "threshold": ("must be a number in [0, 1)", lambda value: is_number(value, 0, 1) and value < 1),
    "open_share_metric": _BOOL,
    "num_classes": ("must be a positive int", is_size),
    "nll_weight": ("must be a finite number, at least 0", _at_least_zero),
    "learning_rate_multiplier": ("must be a finite number above 0", _is_positive),
    "monitor": (
        "must be None or a number in [0, 1)",
        _or_none(lambda value: is_number(value, 0, 1) and value < 1),
    ),
}


def check_arguments(layer, names, owner):
    """Raises ValueError for the first of these arguments of a layer that is invalid."""
    for name in names:
        if name in RULES:
            rule, holds = RULES[name]
            value = getattr(layer, name)
            require(holds(value), owner, f"`{name}` {rule}", **{name: value})


def check_frozen(names, owner):
    """Raises ValueError if this is not a list of what a layer can freeze."""
    is_list = isinstance(names, (list, tuple))
    holds = is_list and all(name in ("statistics", "parameters") for name in names)
    rule = "`frozen` must be a list with 'statistics', 'parameters', both or neither"
    require(holds, owner, rule, frozen=names)


def check_choice(layer, name, choices, owner):
    """Raises ValueError if an argument is not one of the allowed names."""
    value = getattr(layer, name)
    rule = f"`{name}` must be one of {', '.join(map(repr, choices))}"
    require(isinstance(value, str) and value in choices, owner, rule, **{name: value})


def check_batch_options(layer, owner):
    """Raises ValueError for options of a batch-statistics layer that exclude each other."""
    require(
        layer.max_update is None or layer.epsilon > 0,
        owner,
        "`max_update` needs an `epsilon` above 0, since a stored variance of 0 would bound all "
        "updates to nothing",
        epsilon=layer.epsilon,
    )
    require(
        layer.group_size is None or layer.synchronized,
        owner,
        "`group_size` needs `synchronized=True`",
        group_size=layer.group_size,
        synchronized=layer.synchronized,
    )
    require(
        layer.accumulate_steps == 1 or layer.virtual_batch_size is None,
        owner,
        "statistics of virtual batches are averaged and those of accumulated batches merged, so "
        "`accumulate_steps` above 1 excludes `virtual_batch_size`",
        accumulate_steps=layer.accumulate_steps,
        virtual_batch_size=layer.virtual_batch_size,
    )
    require(
        layer.virtual_batch_size is None or not layer.synchronized,
        owner,
        "virtual batches split the batch of a replica, so `virtual_batch_size` cannot be "
        "synchronized",
        virtual_batch_size=layer.virtual_batch_size,
        synchronized=layer.synchronized,
    )


def check_may_build(owner):
    """Raises where the weights of a synchronized layer cannot be created.

    Keras 3 creates weights while a tf.function is traced, and TensorFlow then puts the first
    call into a `tf.cond`, where no collective can be; it fails there without naming the layer.
    Replicas that work without each other have no common statistics at all.
    """
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise RuntimeError(
            f"{owner}: synchronized statistics need replicas that work in step, and those of a "
            "ParameterServerStrategy do not. Use MirroredStrategy or MultiWorkerMirroredStrategy, "
            f"or a layer without synchronization. Received: {type(strategy).__name__}."
        )
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync if context else 1
    if IS_KERAS_3 and replicas > 1 and not tf.executing_eagerly():
        raise RuntimeError(
            f"{owner}: a synchronized layer must be built before a tf.function runs it on several "
            "replicas. Build the model in the strategy's scope, with an Input or `model.build`. "
            f"Received: a first call on {replicas} replicas."
        )
