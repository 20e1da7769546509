"""Freezes normalization layers, their statistics or their parameters, for fine-tuning."""

import fnmatch

from keras_norms.arguments import is_bool, require
from keras_norms.keras_api import keras, nested_layers, stock_layers
from keras_norms.layers.channels import ChannelNormalization
from keras_norms.models.statistics_layers import named
from keras_norms.printable import called, printable

_STOCK = stock_layers("BatchNormalization", "SyncBatchNormalization")


def freeze_batch_norm(model, statistics=True, parameters=True, pattern=None):
    """Freezes the batch normalization layers of a model, at any depth.

        statistics and parameters   the layer computes as in inference, and nothing of it moves
        statistics                  it computes as in inference; gamma and beta are trained
        parameters                  gamma and beta stay; the layer normalizes by the batch, and its
                                    moving statistics move

    Layers of this package remember it in `frozen`, which is in their config: it is saved and loaded
    with the model, and stays when `trainable` is set on the layer or on a model around it. The
    statistics of a `BatchlessNormalization` are trained by its loss, which it then does not add.

    Stock layers have `trainable` only, which freezes both. So they cannot be frozen in part, and
    setting `trainable` on a model around them afterwards undoes it. Our `BatchNormalization` takes
    their config and their weights, and can be frozen in part.

    Call `model.compile` afterwards, as after any change of `trainable`: a step that has been traced
    does not change, and an optimizer knows the variables that it began with.

    Use it to fine-tune with batches that are small or unlike those of training: frozen statistics
    do not follow them. Not at the start of a training, where the statistics mean nothing yet.

    Args:
        model: a Keras model or layer, built or not.
        statistics: whether to freeze the statistics. Defaults to `True`.
        parameters: whether to freeze gamma and beta. Defaults to `True`.
        pattern: which layers, by their names: a glob such as `"encoder_*"`, or a list of them, of
            which one must match. Layers of equal names are numbered, `norm`, `norm_1`. For the
            layers of an inner model, give that model. Defaults to `None`, all.

    Returns:
        The names of the layers that were changed. As the `pattern` of `unfreeze_batch_norm` they
        undo just this: what was frozen before stays frozen.

    Raises:
        ValueError: if nothing is to be frozen, the model has no such layer, a pattern matches
            none, or a stock layer would be frozen in part. Nothing is changed then.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras_norms.BatchNormalization(name="norm"), keras.layers.Dense(1)]
    ... )
    >>> keras_norms.freeze_batch_norm(model, parameters=False)
    ['norm']
    >>> model.get_layer("norm").frozen
    ['statistics']
    >>> keras_norms.unfreeze_batch_norm(model)
    ['norm']
    """
    return _change("freeze_batch_norm", model, statistics, parameters, pattern, freezes=True)


def unfreeze_batch_norm(model, statistics=True, parameters=True, pattern=None):
    """Undoes `freeze_batch_norm`, whose arguments these are.

    A layer of this package that is frozen by `trainable = False` alone stays so. Stock layers are
    set to `trainable = True`, whoever froze them: to leave those that were frozen before, give the
    names that `freeze_batch_norm` returned as `pattern`. Call `model.compile` afterwards.

    Returns:
        The names of the layers that were changed.

    Raises:
        ValueError: as `freeze_batch_norm`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras_norms.BatchNormalization(name="norm")])
    >>> names = keras_norms.freeze_batch_norm(model)
    >>> keras_norms.unfreeze_batch_norm(model, pattern=names)
    ['norm']
    """
    return _change("unfreeze_batch_norm", model, statistics, parameters, pattern, freezes=False)


def _change(owner, model, statistics, parameters, pattern, *, freezes):
    rule = "`model` must be a Keras model or layer"
    require(isinstance(model, keras.layers.Layer), owner, rule, model=model)
    are_bools = is_bool(statistics) and is_bool(parameters)
    rule = "`statistics` and `parameters` must be bools, one of them True"
    is_any = are_bools and (statistics or parameters)
    require(is_any, owner, rule, statistics=statistics, parameters=parameters)
    kinds = ChannelNormalization, *_STOCK
    layers = named(layer for layer in nested_layers(model) if isinstance(layer, kinds))
    rule = "the model must have a batch normalization layer"
    require(layers, owner, rule, model=called(model))
    selected = _matching(layers, pattern, owner)
    whole = statistics and parameters
    in_part = [name for name in selected if isinstance(layers[name], _STOCK) and not whole]
    rule = (
        "layers of stock Keras are frozen as a whole or not at all; use "
        "keras_norms.BatchNormalization, which takes their weights, or leave them out by `pattern`"
    )
    require(not in_part, owner, rule, layers=in_part)
    parts = {"statistics"} if statistics else set()
    parts |= {"parameters"} if parameters else set()
    return [name for name in selected if _set(layers[name], parts, freezes)]


def _set(layer, parts, freezes):
    """Freezes parts of a layer, or the contrary, and returns whether that changed anything."""
    if isinstance(layer, _STOCK):
        changes = layer.trainable == freezes
        layer.trainable = not freezes
        return changes
    before = set(layer.frozen)
    after = before | parts if freezes else before - parts
    if after != before:
        layer.frozen = sorted(after)
    return after != before


def _matching(layers, pattern, owner):
    """The names that any of the patterns matches, in the order of the model."""
    if pattern is None:
        return list(layers)
    patterns = [pattern] if isinstance(pattern, str) else pattern
    is_list = isinstance(patterns, (list, tuple)) and all(isinstance(p, str) for p in patterns)
    require(is_list, owner, "`pattern` must be a glob, a list of them or None", pattern=pattern)
    rule = f"`pattern` must match a layer of {', '.join(map(printable, layers))}"
    selected: set[str] = set()
    for each in patterns:
        # A name with brackets is that of its layer, not a glob.
        names = [each] if each in layers else fnmatch.filter(layers, each)
        require(names, owner, rule, pattern=each)
        selected.update(names)
    return [name for name in layers if name in selected]
