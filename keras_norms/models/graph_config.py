"""The config of a Functional or Sequential model as a graph of layers that can be rewired.

Keras 2 and 3 write calls differently, but both name a tensor by a list `[layer, call, output]`:
Keras 2 as it is, Keras 3 inside of a description of the tensor.
"""

from keras_norms.keras_api import keras

OUTPUT = None  # Stands among consumers for an output of the model.


def graph_of(model, config):
    """The graph of a model's config, or None for a subclassed model.

    Args:
        model: a Keras model.
        config: its config, or the part of an outer model's config that is its config. It is
            changed in place; see `copied`.
    """
    if not isinstance(model, keras.Model):
        return None
    if isinstance(model, keras.Sequential):
        has_layers = isinstance(config, dict) and "layers" in config
        return SequentialGraph(config) if has_layers else None
    is_functional = isinstance(config, dict) and {"layers", "output_layers"} <= config.keys()
    return FunctionalGraph(config) if is_functional else None


def copied(config):
    """A copy of all dicts, lists and tuples of a config, which may be changed in place."""
    if isinstance(config, dict):
        return {key: copied(value) for key, value in config.items()}
    if type(config) in (list, tuple):
        return type(config)(map(copied, config))
    return config


class _Graph:
    def __init__(self, config):
        self.config = config

    @property
    def names(self):
        """The layers, inputs included, in the order of the config."""
        return [_name(layer) for layer in self.config["layers"]]

    def layer_config(self, name):
        """The config of a layer, which may be changed; that of a model for a nested one."""
        return self._entry(name)["config"]

    def _entry(self, name):
        return next(layer for layer in self.config["layers"] if _name(layer) == name)


class SequentialGraph(_Graph):
    """See `FunctionalGraph`. Each layer is called once, on what the one before returns."""

    def calls(self, name):
        del name
        return 1

    def inputs(self, name):
        before = self.names[: self.names.index(name)]
        return before[-1:]

    def consumers(self, name):
        after = self.names[self.names.index(name) + 1 :]
        return after[:1] or [OUTPUT]

    def remove(self, name):
        self.config["layers"].remove(self._entry(name))


class FunctionalGraph(_Graph):
    """Layers, and which of them call which."""

    def calls(self, name):
        """How often the model calls a layer."""
        return len(self._entry(name)["inbound_nodes"])

    def inputs(self, name):
        """The layers whose outputs a layer is given, in all its calls: a name for each tensor.

        Masks are left out: Keras 3 also writes those that it passes on by itself.
        """
        return [tensor[0] for tensor in self._tensors(self._unmasked(name))]

    def consumers(self, name):
        """The layers that are given the outputs of a layer: a name for each use of a tensor.

        Where an output of the model is such a tensor, there is an `OUTPUT`.
        """
        uses = {other: self._entry(other)["inbound_nodes"] for other in self.names}
        uses[OUTPUT] = self.config["output_layers"]
        return [other for other, part in uses.items() for _ in self._tensors(part, {name})]

    def remove(self, name):
        """Takes a layer away that is called once, on one tensor; its users get that tensor."""
        (given,) = self._tensors(self._unmasked(name))
        self.config["layers"].remove(self._entry(name))
        places = [layer["inbound_nodes"] for layer in self.config["layers"]]
        for tensor in self._tensors([places, self.config["output_layers"]], {name}):
            tensor[:3] = given[:3]

    def _unmasked(self, name):
        return _without_masks(self._entry(name)["inbound_nodes"])

    def _tensors(self, part, names=None):
        """All lists in a part of the config that name a tensor."""
        names = set(self.names) if names is None else names
        if isinstance(part, dict):
            part = list(part.values())
        if not isinstance(part, (list, tuple)):
            return
        if _names_a_tensor(part, names):
            yield part
        for value in part:
            yield from self._tensors(value, names)


def _name(layer):
    return layer.get("name") or layer["config"]["name"]


def _without_masks(part):
    if isinstance(part, dict):
        return {key: _without_masks(value) for key, value in part.items() if key != "mask"}
    return list(map(_without_masks, part)) if isinstance(part, (list, tuple)) else part


def _names_a_tensor(part, names):
    if len(part) < 3 or not isinstance(part[0], str) or part[0] not in names:
        return False
    return all(isinstance(index, int) for index in part[1:3])
