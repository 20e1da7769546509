"""Which normalizations of a model take over the sum and the activation behind them."""

from typing import NamedTuple

from keras_norms.keras_api import keras
from keras_norms.keras_models import symbolic_calls
from keras_norms.layers.activations import rectifier_of, serialized
from keras_norms.layers.inputs import mask_of
from keras_norms.models.graph_config import OUTPUT
from keras_norms.models.graph_plan import GraphPlan
from keras_norms.models.inference_affine import is_normalization
from keras_norms.models.layer_conversion import OURS
from keras_norms.models.model_tree import copy_own_state
from keras_norms.models.reports import Row, listed

RECTIFYING = keras.layers.ReLU, keras.layers.LeakyReLU
_STOCK = keras.layers.BatchNormalization


class Obstacle(Exception):
    """Says why a normalization stays as it is."""


class Fusion(NamedTuple):
    """The layers that a normalization takes over, by name. `add` may be None."""

    activation: str
    add: str | None


class FusingPlan(GraphPlan):
    """Makes activations, and sums before them, arguments of normalizations. See `GraphPlan`."""

    def __init__(self, model, config, owner):
        super().__init__(model, config, owner)
        self._fusions: dict[str, Fusion] = {}
        self._reasons: dict[str, str] = {}

    @property
    def sums(self):
        """The layers whose calls `rewrite` wants to know, those of the plans inside included."""
        found = (layer for plan in self.plans for layer in plan.layers.values())
        return [layer for layer in found if type(layer) is keras.layers.Add]

    def rewrite(self, calls):
        """Edits the config. `calls` are those of each sum, by layer."""
        for plan in self.plans:
            plan._rewrite_own(calls)

    def _rewrite_own(self, calls):
        for name in filter(self._is_own_norm, self.layers):
            try:
                self._fusions[name] = self._fusion(name, calls)
            except Obstacle as obstacle:
                self._reasons[name] = str(obstacle)
        for name, other in list(self._pairs()):
            del self._fusions[name]
            self._reasons[name] = f"it is the residual of '{other}'"
        for name, fusion in self._fusions.items():
            self._apply(name, fusion)

    def _is_own_norm(self, name):
        return is_normalization(self.layers[name])

    def _fusion(self, name, calls):
        """What a normalization can take over. Raises an `Obstacle` if there is nothing."""
        norm = self.layers[name]
        _check(norm)
        _need(self.graph.calls(name) == 1, "it is shared")
        add, activation = None, self._only_user(name, "it")
        if type(self.layers.get(activation)) is keras.layers.Add:
            add, activation = activation, self._only_user(activation, f"'{activation}'")
        self._check_activation(activation, add, norm)
        if add:
            self._check_add(add, name, calls.get(self.layers[add], ()))
        return Fusion(activation, add)

    def _only_user(self, name, what):
        uses = self.graph.consumers(name)
        _need(OUTPUT not in uses, f"{what} is an output itself")
        _need(len(uses) == 1, f"{what} has several consumers")
        return uses[0]

    def _check_activation(self, name, add, norm):
        layer, where = self.layers.get(name), f"behind '{add}'" if add else "behind it"
        is_one = type(layer) in (*RECTIFYING, keras.layers.Activation)
        _need(is_one, f"no activation layer is {where}, but '{name}'")
        activation = _activation_of(layer)
        which = getattr(activation, "__name__", f"a {type(layer).__name__} of these options")
        is_computed = rectifier_of(activation) is not None
        _need(is_computed, f"kernels do not compute '{name}', {which}")
        self._check_taken(name, norm)

    def _check_taken(self, name, norm):
        """A layer that is to go must be called here only, and do no more than it seems."""
        layer = self.layers[name]
        _need(self.graph.calls(name) == 1, f"'{name}' is shared")
        _need(layer.compute_dtype == norm.compute_dtype, f"'{name}' has another dtype")
        _need(layer.activity_regularizer is None, f"'{name}' has an activity regularizer")

    def _check_add(self, add, name, calls):
        norm = self.layers[name]
        _need(not self.graph.takes(name, "residual"), "it has a residual already")
        self._check_taken(add, norm)
        names = self.graph.inputs(add)
        _need(len(names) == 2, f"'{add}' adds {len(names)} tensors")
        symbolic = [symbolic_calls(each) for each in (self.layers[add], norm)]
        _need(all(len(each) == 1 for each in symbolic), "another model calls it, too")
        (summed,), (given,) = symbolic
        shapes = {tuple(tensor.shape) for tensor in summed}
        _need(len(shapes) == 1, f"'{add}' adds tensors of two shapes")
        own = names.index(name)
        is_same = summed[1 - own].dtype == given[0].dtype
        _need(is_same, f"what '{add}' adds has another dtype than its input")
        # Keras 3 computes a mask anew in each call, Keras 2 makes other symbols of one mask.
        sums = [summed] if mask_of(summed[own]) is mask_of(summed[1 - own]) is not None else []
        sums = sums or [call.inputs for call in calls]
        masks = [list(map(mask_of, inputs)) for inputs in sums]
        is_kept = all(mask[1 - own] is None or mask[1 - own] is mask[own] for mask in masks)
        _need(is_kept, f"what '{add}' adds has a mask of its own")

    def _pairs(self):
        """`(name, other)` of normalizations that one `Add` adds; the main path ends in `other`."""
        by_add: dict[str, str] = {}
        for name, fusion in self._fusions.items():
            if fusion.add is None:
                continue
            rival = by_add.setdefault(fusion.add, name)
            if rival != name:
                is_longer = len(self._before(rival)) > len(self._before(name))
                yield (name, rival) if is_longer else (rival, name)

    def _before(self, name):
        """The layers that one depends on, itself included."""
        found, left = set(), [name]
        while left:
            each = left.pop()
            if each not in found:
                found.add(each)
                left += self.graph.inputs(each)
        return found

    def _apply(self, name, fusion):
        if fusion.add:
            self.graph.absorb(fusion.add, name, "residual")
        activation = _activation_of(self.layers[fusion.activation])
        self.graph.layer_config(name)["activation"] = serialized(activation)
        self.graph.remove(fusion.activation)
        self._gone |= set(filter(None, fusion))

    def _is_concerned(self, name, layer):
        del name
        return is_normalization(layer)

    def _row(self, name, layer):
        fusion = self._fusions.get(name)
        if fusion is None:
            return Row(name, type(layer).__name__, None, self._reasons[name])
        became = "activation(y + residual)" if fusion.add else "activation(y)"
        gone = listed(filter(None, reversed(fusion)))
        return Row(name, type(layer).__name__, became, f"in place of {gone}")

    def _row_inside(self, path, layer, where):
        return Row(path, type(layer).__name__, None, where)

    def _copy_layer(self, name, layer, copy):
        if name not in self._fusions:
            return super()._copy_layer(name, layer, copy)
        copy.trainable = layer.trainable
        return copy_own_state(layer, copy)


def _check(norm):
    """Raises an `Obstacle` if a layer is no normalization of ours that can take something over."""
    kind = type(norm)
    _need(kind is not _STOCK, "convert it first with convert_batch_norm")
    _need(kind in OURS, f"its class, {kind.__name__}, may compute something else")
    _need(norm.activation is None, "it has an activation already")
    _need(norm.activity_regularizer is None, "it has an activity regularizer")


def _activation_of(layer):
    return layer.activation if type(layer) is keras.layers.Activation else layer


def _need(condition, reason):
    if not condition:
        raise Obstacle(reason)
