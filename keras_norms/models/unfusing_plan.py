"""Activations and residuals of normalizations as layers of their own."""

from keras_norms.keras_api import keras
from keras_norms.layers.channels import ChannelNormalization
from keras_norms.models.fusing_plan import RECTIFYING
from keras_norms.models.graph_plan import GraphPlan
from keras_norms.models.layer_conversion import OURS
from keras_norms.models.model_tree import copy_own_state
from keras_norms.models.reports import Row, listed


class UnfusingPlan(GraphPlan):
    """Makes arguments of normalizations the layers that they stand for. See `GraphPlan`."""

    def __init__(self, model, config, owner):
        super().__init__(model, config, owner)
        self._new: dict[str, list[str]] = {}

    def rewrite(self):
        """Edits the config."""
        for plan in self.plans:
            plan._rewrite_own()

    def _rewrite_own(self):
        for name, layer in self.layers.items():
            if type(layer) in OURS and self._is_concerned(name, layer):
                self._new[name] = put_apart(self.graph, name, layer)

    def _is_concerned(self, name, layer):
        if name in self._new:
            return True
        return is_fused(self.graph, name, layer)

    def _row(self, name, layer):
        kind = type(layer).__name__
        if name not in self._new:
            return Row(name, kind, None, f"its class, {kind}, may compute something else")
        return Row(name, kind, kind, f"followed by {listed(self._new[name])}")

    def _row_inside(self, path, layer, where):
        return Row(path, type(layer).__name__, None, where)

    def _copy_layer(self, name, layer, copy):
        if name not in self._new:
            return super()._copy_layer(name, layer, copy)
        copy.trainable = layer.trainable
        return copy_own_state(layer, copy)


def is_fused(graph, name, layer):
    """Whether a layer is a normalization of ours with an activation or a residual.

    Args:
        graph: the one that calls it.
        name: the layer's name there, or None where it is inside of a layer.
        layer: the layer.
    """
    if not isinstance(layer, ChannelNormalization):
        return False
    return layer.activation is not None or (name is not None and graph.takes(name, "residual"))


def put_apart(graph, name, layer):
    """Puts layers behind a normalization that do what its residual and its activation did.

    Args:
        graph: the one that calls it. It is changed.
        name: of the normalization.
        layer: the normalization.

    Returns:
        The names of the new layers, which begin with its name.
    """
    config, names = graph.layer_config(name), [name]
    if graph.takes(name, "residual"):
        add = keras.layers.Add.from_config(_config(graph, f"{name}_add", config))
        graph.put_behind(names[-1], add, "residual")
        names.append(add.name)
    if layer.activation is not None:
        new_config = _config(graph, f"{name}_activation", config)
        graph.put_behind(names[-1], activation := _as_layer(layer.activation, new_config))
        names.append(activation.name)
        config["activation"] = None
    return names[1:]


def _config(graph, name, config):
    """What a new layer has of the config of the normalization before it, and a name of its own."""
    number, names = 0, set(graph.names)
    unused = name
    while unused in names:
        number += 1
        unused = f"{name}_{number}"
    return {"name": unused, "dtype": config["dtype"]}


def _as_layer(activation, config):
    if isinstance(activation, RECTIFYING):
        return type(activation).from_config({**activation.get_config(), **config})
    return keras.layers.Activation(activation, **config)
