"""Excludes gamma, beta and trained statistics from weight decay."""

import re
import warnings

from keras_norms.arguments import require
from keras_norms.keras_api import IS_KERAS_3, is_variable, keras, nested_layers, stock_layers
from keras_norms.layers.batchless_normalization import BatchlessNormalization
from keras_norms.layers.channels import ChannelNormalization
from keras_norms.printable import called

_STOCK = stock_layers(
    "BatchNormalization",
    "SyncBatchNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
)


def exclude_from_weight_decay(optimizer, model, var_names=()):
    """Tells an optimizer not to decay gamma, beta and trained statistics of normalization layers.

    Decay is for weights whose size makes a function complicated. Gamma and beta are a scale and an
    offset per channel, and pulling gamma to 0 silences channels. The statistics of a
    `BatchlessNormalization` should follow the data only.

    The layers are those of this package, and `BatchNormalization`, `LayerNormalization`,
    `GroupNormalization` and `RMSNormalization` of Keras, at any depth, frozen ones included. Others
    are named by `var_names`.

    Call it before the first training step. Keras does not save what is excluded: after loading a
    model, call it again and then `model.compile` with that optimizer, since a step that has been
    traced does not change. (With Keras 2, where it must come before the optimizer knows its
    variables, compile with a new one.)

    Optimizers of TensorFlow Addons, such as its `AdamW`, are told the full names of the weights,
    beside what they exclude already, and save them in their config. As when it is made, `LAMB` then
    leaves them out of its layer adaptation too, unless it has other exclusions for that.

    Args:
        optimizer: an optimizer with weight decay, of Keras or TensorFlow Addons. The one inside a
            `LossScaleOptimizer` is found.
        model: a Keras model whose layers are built.
        var_names: parts of names of further weights to exclude, `"bias"` for example. Keras forgets
            earlier exclusions, so name all of them in one call. Defaults to none.

    Returns:
        The weights of normalization layers that are excluded.

    Raises:
        ValueError: if the optimizer can exclude nothing, or, with Keras 2, is built already; if the
            model has no normalization layer that is built.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras_norms.BatchNormalization()])
    >>> optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01)
    >>> [weight.name for weight in keras_norms.exclude_from_weight_decay(optimizer, model)]
    ['gamma', 'beta']
    """
    kinds = ChannelNormalization, *_STOCK
    needs = "a normalization layer with weights"
    return _exclude(
        "exclude_from_weight_decay", optimizer, model, var_names, kinds, _weights_of, needs
    )


def exclude_statistics_from_weight_decay(optimizer, model, var_names=()):
    """The same for mean and standard deviation of `BatchlessNormalization` layers only.

    Weight decay pulls `log_stddev` to 0, that is, every standard deviation to 1, and every mean to
    0. Only the data should determine them. Arguments, errors and when to call it are those of
    `exclude_from_weight_decay`.

    Returns:
        The statistics that are excluded.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras_norms.BatchlessNormalization()])
    >>> optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01)
    >>> excluded = keras_norms.exclude_statistics_from_weight_decay(optimizer, model)
    >>> len(excluded)
    2
    """
    return _exclude(
        "exclude_statistics_from_weight_decay",
        optimizer,
        model,
        var_names,
        BatchlessNormalization,
        lambda layer: layer.statistics_weights,
        "a BatchlessNormalization",
    )


def _weights_of(layer):
    """Gamma, beta and trained statistics; `scale` is the gamma of `RMSNormalization`."""
    named = (getattr(layer, name, None) for name in ("gamma", "beta", "scale"))
    return [w for w in named if is_variable(w)] + list(getattr(layer, "statistics_weights", ()))


def _exclude(owner, optimizer, model, var_names, kinds, weights_of, needs):
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"{owner}: `model` must be a Keras model. Received: {type(model).__name__}."
        )
    is_list = not isinstance(var_names, str) and all(isinstance(name, str) for name in var_names)
    rule = "`var_names` must be a list of strings"
    require(is_list, owner, rule, var_names=var_names)
    weights = [
        w for layer in nested_layers(model) if isinstance(layer, kinds) for w in weights_of(layer)
    ]
    if not weights:
        raise ValueError(
            f"{owner}: the model must have {needs} that is built. "
            f"Received: {called(model)} without."
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not hasattr(inner, "exclude_from_weight_decay"):
        raise ValueError(
            f"{owner}: the optimizer must be one of Keras or TensorFlow Addons with "
            f"`exclude_from_weight_decay`. Received: {type(inner).__name__}."
        )
    if not callable(inner.exclude_from_weight_decay):  # Patterns of names, in TensorFlow Addons.
        names = [f"^{re.escape(weight.name)}$" for weight in weights]
        earlier = inner.exclude_from_weight_decay
        excluded = [*dict.fromkeys([*(earlier or []), *names, *var_names])]
        # LAMB, when it is made or loaded, takes these for its layer adaptation if that has none.
        if getattr(inner, "exclude_from_layer_adaptation", ()) == earlier:
            inner.exclude_from_layer_adaptation = excluded
        inner.exclude_from_weight_decay = excluded
        return weights
    is_late = getattr(inner, "built", False)
    if getattr(inner, "_built", False) and not IS_KERAS_3:
        raise ValueError(
            f"{owner}: with Keras 2 the optimizer must not be built yet: call it before the first "
            "training step. Received: an optimizer that is built."
        )
    inner.exclude_from_weight_decay(var_list=weights, var_names=list(var_names) or None)
    if is_late:
        warnings.warn(
            f"{owner}: the optimizer is built already. Call `model.compile` with it again: a step "
            "that has been traced does not change.",
            stacklevel=3,
        )
    return weights
