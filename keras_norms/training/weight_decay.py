"""Excludes trained statistics from weight decay."""

import warnings

from keras_norms.keras_api import keras, nested_layers
from keras_norms.layers.batchless_normalization import BatchlessNormalization
from keras_norms.printable import called


def exclude_statistics_from_weight_decay(optimizer, model, var_names=()):
    """Tells a Keras optimizer not to decay mean and standard deviation of Batchless layers.

    Weight decay pulls `log_stddev` to 0, that is, every standard deviation to 1, and every mean to
    0. Only the data should determine them.

    Call it before the first training step. Keras does not save what is excluded: after loading a
    model, call it again and then `model.compile` with that optimizer, since a step that has been
    traced does not change. (With Keras 2, where it must come before the optimizer knows its
    variables, compile with a new one.)

    Args:
        optimizer: a Keras optimizer with `weight_decay`. The one inside a `LossScaleOptimizer` is
            found.
        model: a Keras model whose layers are built.
        var_names: parts of names of further weights to exclude, `"bias"` for example. Keras forgets
            earlier exclusions, so name all of them in one call. Defaults to none.

    Returns:
        The statistics that are excluded.

    Raises:
        ValueError: if the optimizer has no `exclude_from_weight_decay`, or, with Keras 2, is built
            already; if the model has no built `BatchlessNormalization`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras_norms.BatchlessNormalization()])
    >>> optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01)
    >>> excluded = keras_norms.exclude_statistics_from_weight_decay(optimizer, model)
    >>> len(excluded)
    2
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            "exclude_statistics_from_weight_decay: `model` must be a Keras model. "
            f"Received: {type(model).__name__}."
        )
    weights = [
        weight
        for layer in nested_layers(model)
        if isinstance(layer, BatchlessNormalization) and layer.built
        for weight in layer.statistics_weights
    ]
    if not weights:
        raise ValueError(
            "exclude_statistics_from_weight_decay: the model must have a BatchlessNormalization "
            f"that is built. Received: {called(model)} without."
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not hasattr(inner, "exclude_from_weight_decay"):
        raise ValueError(
            "exclude_statistics_from_weight_decay: the optimizer must be a Keras optimizer with "
            f"`exclude_from_weight_decay`. Received: {type(inner).__name__}."
        )
    is_late = getattr(inner, "built", False)
    inner.exclude_from_weight_decay(var_list=weights, var_names=list(var_names) or None)
    if is_late:
        warnings.warn(
            "exclude_statistics_from_weight_decay: the optimizer is built already. Call "
            "`model.compile` with it again: a step that has been traced does not change.",
            stacklevel=2,
        )
    return weights
