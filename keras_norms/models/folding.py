"""Models for inference whose normalizations are folded into the layers beside them."""

from typing import Any, NamedTuple

from keras_norms.models.folding_plan import FoldingPlan
from keras_norms.models.graph_plan import config_of_graph, model_of_config, traced_calls
from keras_norms.models.reports import ModelReport

CALLER = "fold_batch_norm"


class Folded(NamedTuple):
    """What `fold_batch_norm` returns."""

    model: Any
    report: ModelReport


def fold_batch_norm(model):
    """Returns a model for inference without the normalizations that other layers can take over.

    In inference a batch normalization is `scale * x + offset` per channel. The layer before or
    after it can do that with its own weights, which are computed in float64:

        after a layer     kernel * scale,  bias * scale + offset
        before a layer    kernel * scale,  bias + what the layer makes of `offset` everywhere

    The first is always exact. The second is where each output sees all of the kernel: not at a
    border that is padded with zeros, unless the offset is 0 or the kernel has size 1. Layers that
    take it are `Dense`, `Conv1D` to `Conv3D`, their transposes, `DepthwiseConv1D` and `2D`,
    `SeparableConv1D` and `2D`; they get a bias if they have none. Folded are the normalizations of
    this package, except for a `LightNormalization` that rounds, and
    `keras.layers.BatchNormalization`; models inside of the model are folded too.

    Use it before a trained model is exported or its speed is measured: it has fewer layers, and
    passes over activations. Not before training or fine-tuning: nothing is left that normalizes
    by batches. Outputs agree up to rounding.

    Args:
        model: a built Functional or Sequential model. It is left as it is.

    Returns:
        A named tuple. `model` is new and not compiled; layers keep their names, dtypes and
        `trainable`. An output that was that of a folded layer has the name of the other layer.
        `report` has a row for each normalization: `layer`, `into`, the layer that it is folded
        into, and `reason`, why it is not; `str(report)` is a table.

    Raises:
        ValueError: if `model` is not a built Functional or Sequential model; if Keras cannot build
            it from its config; or if a weight that takes part is NaN or infinite. Layers of your
            own must be registered, or this be called in a `keras.saving.custom_object_scope`.

    Example:

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")])
    >>> model.add(keras_norms.BatchNormalization(name="norm"))
    >>> model.add(keras.layers.ReLU(name="relu"))
    >>> model.add(keras_norms.BatchNormalization(name="last"))
    >>> folded, report = keras_norms.fold_batch_norm(model)
    >>> [layer.name for layer in folded.layers]
    ['conv', 'relu', 'last']
    >>> print(report)
    norm: BatchNormalization -> conv
    last: BatchNormalization as it was (no neighbour that can take it)
    """
    config = config_of_graph(model, CALLER)
    plan = FoldingPlan(model, config, CALLER)
    plan.fold(traced_calls(model, [norm for part in plan.plans for norm in part.norms.values()]))
    rows = list(plan.rows())
    new = model_of_config(model, config, CALLER)
    plan.copy_to(new)
    return Folded(new, ModelReport(rows))
