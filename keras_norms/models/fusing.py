"""Models whose normalizations compute the activations behind them, and the way back."""

import warnings
from typing import Any, NamedTuple

from keras_norms.keras_api import nested_layers
from keras_norms.models.compile_state import copy_compile_state
from keras_norms.models.fusing_plan import FusingPlan
from keras_norms.models.graph_plan import config_of_graph, model_of_config, traced_calls
from keras_norms.models.rebuilding import configs_of, scope_of
from keras_norms.models.reports import ModelReport
from keras_norms.models.unfusing_plan import UnfusingPlan

FUSE, UNFUSE = "fuse_activations", "unfuse_activations"


class Fused(NamedTuple):
    """What `fuse_activations` and `unfuse_activations` return."""

    model: Any
    report: ModelReport


def fuse_activations(model):
    """Returns a copy of a model whose normalizations compute the activations behind them.

        BatchNormalization -> ReLU                  becomes   relu(y), one layer
        BatchNormalization -> Add(shortcut) -> ReLU becomes   relu(y + shortcut), one layer

    Kernels of this package then read and write activations once instead of two or three times,
    and keep less of them for the gradient. Outputs, gradients and statistics are the same up to
    rounding. Fused are `ReLU`, `LeakyReLU` and `Activation` layers that kernels compute: ReLU, with
    a maximum or not, and leaky ReLU. Where both parts of a sum are normalizations, the one with
    more layers before it takes the other's output as its residual. Models inside of the model are
    fused too.

    Use it before training, or in the middle of one. Where you write the model, you need not: give
    layers an `activation`, and call them with `residual`. Stock layers are left: convert them with
    `convert_batch_norm` first.

    The copy has the weights, statistics, flags and names of the layers that stay. Activations and
    sums that are fused are gone; an output that was that of one has the name of the normalization.
    If the model is compiled, so is the copy, and its optimizer has the slots of the old one.

    Args:
        model: a built Functional or Sequential model. It is left as it is.

    Returns:
        `Fused(model, report)`. The report has a row for each normalization: its path, what it
        computes now, and in place of which layers, or why it is as it was.

    Raises:
        ValueError: if `model` is not a built Functional or Sequential model, or Keras cannot build
            it from its config.

    Example:

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")])
    >>> model.add(keras_norms.BatchNormalization(name="norm"))
    >>> model.add(keras.layers.ReLU(name="relu"))
    >>> model.add(keras_norms.BatchNormalization(name="last"))
    >>> fused, report = keras_norms.fuse_activations(model)
    >>> [layer.name for layer in fused.layers]
    ['conv', 'norm', 'last']
    >>> print(report)
    norm: BatchNormalization -> activation(y) (in place of 'relu')
    last: BatchNormalization as it was (it is an output itself)
    """
    plan = FusingPlan(model, config_of_graph(model, FUSE), FUSE)
    plan.rewrite(traced_calls(model, plan.sums))
    return _built(plan, FUSE)


def unfuse_activations(model):
    """Returns a copy of a model in which activations and sums of normalizations are layers again.

    The inverse of `fuse_activations`, for code that expects those layers, and for the way to stock
    layers by `convert_batch_norm`. Behind a normalization called `norm` there is then an `Add`
    called `norm_add`, if it had a residual, and its activation, called `norm_activation`: a `ReLU`
    or `LeakyReLU` if it was such a layer, otherwise an `Activation`. If there is a layer of that
    name, a number is appended. An output that was that of the normalization has the new name.

    Args:
        model: a built Functional or Sequential model. It is left as it is.

    Returns:
        `Fused(model, report)`, as `fuse_activations`, with a row for each normalization that had an
        activation or a residual.

    Raises:
        ValueError: as `fuse_activations`.

    Example:

    >>> norm = keras_norms.BatchNormalization(activation="relu", name="norm")
    >>> model, report = keras_norms.unfuse_activations(keras.Sequential([keras.Input((3,)), norm]))
    >>> [layer.name for layer in model.layers]
    ['norm', 'norm_activation']
    >>> print(report)
    norm: BatchNormalization -> BatchNormalization (followed by 'norm_activation')
    """
    plan = UnfusingPlan(model, config_of_graph(model, UNFUSE), UNFUSE)
    plan.rewrite()
    return _built(plan, UNFUSE)


def _built(plan, owner):
    model, report = plan.model, ModelReport(plan.rows())
    with scope_of(model), configs_of(nested_layers(model)):
        new = model_of_config(model, plan.graph.config, owner)
        lost = copy_compile_state(model, new, plan.copy_to(new))
    for text in lost:
        warnings.warn(f"{owner}: {text}", stacklevel=3)
    return Fused(new, report)
