"""The config of a Functional or Sequential model as a graph of layers that can be rewired.

Keras 2 and 3 write calls differently, but both name a tensor by a list `[layer, call, output]`:
Keras 2 as it is, Keras 3 inside of a description of the tensor.
"""

from keras_norms.keras_api import IS_KERAS_3, keras

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

    def _insert(self, layer, behind):
        """Puts a layer into the config and returns its entry."""
        entry = {**keras.layers.serialize(layer), "name": layer.name}
        entry.pop("build_config", None)
        place = self.config["layers"].index(self._entry(behind))
        self.config["layers"].insert(place + 1, entry)
        return entry


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

    def takes(self, name, argument):
        del name, argument
        return False

    def remove(self, name):
        self.config["layers"].remove(self._entry(name))

    def put_behind(self, name, layer, argument=None):
        del argument
        self._insert(layer, name)


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
        self._replace(name, given)

    def takes(self, name, argument):
        """Whether a call of a layer is given a tensor as this argument."""
        calls = map(_arguments, self._entry(name)["inbound_nodes"])
        return any(_is_tensor(arguments.get(argument)) for arguments in calls)

    def absorb(self, name, into, argument):
        """Takes a layer away that is called once, on the output of `into` and on another tensor.

        Its users get the output of `into`, which gets the other tensor as an argument.
        """
        given = list(_descriptions(self._unmasked(name)))
        (own,) = (tensor for tensor in given if _history(tensor)[0] == into)
        (other,) = (tensor for tensor in given if tensor is not own)
        (call,) = self._entry(into)["inbound_nodes"]
        _arguments(call)[argument] = copied(other) if IS_KERAS_3 else other[:3]
        self._replace(name, _history(own))

    def put_behind(self, name, layer, argument=None):
        """Puts a layer behind all calls of another, whose users get the new one's outputs.

        Args:
            name: of the layer that is there.
            layer: the new one. Its outputs have the shape and dtype of its inputs.
            argument: of the calls of the old layer, which is given it no more. The new one is
                called on a list, of the tensor of this argument and the output of the old one.
        """
        calls = self._entry(name)["inbound_nodes"]
        places = [entry["inbound_nodes"] for entry in self.config["layers"]]
        for tensor in self._tensors([places, self.config["output_layers"]], {name}):
            tensor[0] = layer.name
        nodes = self._insert(layer, name)["inbound_nodes"] = []
        for index, call in enumerate(calls):
            inputs = [_output(call, [name, index, 0], layer.compute_dtype)]
            if argument:
                inputs.insert(0, _arguments(call).pop(argument))
            nodes.append(_call_of(inputs))

    def _replace(self, name, given):
        """Takes a layer away. Its users get a tensor that is there."""
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


def _is_tensor(value):
    if not IS_KERAS_3:
        return isinstance(value, (list, tuple)) and len(value) >= 3 and isinstance(value[0], str)
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _descriptions(part):
    """What stands for tensors in a part of the config, arguments of Keras 2 left out."""
    if _is_tensor(part):
        yield part
    elif isinstance(part, (dict, list, tuple)):
        for value in part.values() if isinstance(part, dict) else part:
            yield from _descriptions(value)


def _history(description):
    """The list that names a tensor."""
    return description["config"]["keras_history"] if IS_KERAS_3 else description


def _arguments(call):
    """The named arguments of a call, which may be changed."""
    if IS_KERAS_3:
        return call["kwargs"]
    first = next(_descriptions(call), None)
    return {} if first is None or len(first) < 4 else first[3]


def _call_of(inputs):
    """A call on one tensor, or on a list of them."""
    if IS_KERAS_3:
        return {"args": inputs if len(inputs) == 1 else [inputs], "kwargs": {}}
    return [[*tensor[:3], {}] for tensor in inputs]


def _output(call, history, dtype):
    """The output of a call, of the shape of its input."""
    if not IS_KERAS_3:
        return history
    output = copied(next(_descriptions(call)))
    output["config"] |= {"dtype": dtype, "keras_history": history}
    return output


def _names_a_tensor(part, names):
    if len(part) < 3 or not isinstance(part[0], str) or part[0] not in names:
        return False
    return all(isinstance(index, int) for index in part[1:3])
