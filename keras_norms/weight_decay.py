"""Keeps statistics that are trained away from weight decay."""

from keras_norms.layers.batchless_normalization import BatchlessNormalization
from keras_norms.layers.keras_api import nested_layers


def exclude_statistics_from_weight_decay(optimizer, model):
    """Tells a Keras optimizer not to decay mean and standard deviation of Batchless layers.

    Weight decay pulls `log_stddev` to 0, that is, every standard deviation to 1, and every mean to
    0. Only the data should say where they are.

    Args:
        optimizer: a Keras optimizer with `weight_decay`, before it has seen a variable: before
            `fit` or `apply_gradients`. The optimizer inside a `LossScaleOptimizer` is found.
        model: a Keras model whose layers are built.

    Returns:
        The weights that are excluded.

    Raises:
        ValueError: if the optimizer has no `exclude_from_weight_decay` or it is too late for that,
            or the model has no built `BatchlessNormalization`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras_norms.BatchlessNormalization()])
    >>> optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01)
    >>> excluded = keras_norms.exclude_statistics_from_weight_decay(optimizer, model)
    >>> len(excluded)
    2
    """
    weights = [
        weight
        for layer in nested_layers(model)
        if isinstance(layer, BatchlessNormalization) and layer.built
        for weight in layer.statistics_weights
    ]
    if not weights:
        raise ValueError(
            "exclude_statistics_from_weight_decay: the model must have a BatchlessNormalization "
            f"that is built. Received: {type(model).__name__} '{model.name}' without."
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not hasattr(inner, "exclude_from_weight_decay"):
        raise ValueError(
            "exclude_statistics_from_weight_decay: the optimizer must be a Keras optimizer with "
            f"`exclude_from_weight_decay`. Received: {type(inner).__name__}."
        )
    inner.exclude_from_weight_decay(var_list=weights)
    return weights
