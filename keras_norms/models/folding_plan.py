"""Which normalizations of a model fold into which neighbours, and the weights after that."""

import numpy as np
import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.layers.channels import ChannelNormalization
from keras_norms.models.graph_config import OUTPUT
from keras_norms.models.graph_plan import GraphPlan
from keras_norms.models.inference_affine import inference_affine, is_normalization, why_no_affine
from keras_norms.models.linear_layers import KINDS, LinearLayer
from keras_norms.models.reports import Row, listed
from keras_norms.models.unfusing_plan import is_fused, put_apart
from keras_norms.ops.layout import canonical_axes
from keras_norms.printable import called


class FoldingPlan(GraphPlan):
    """Folds the normalizations of a model. See `GraphPlan`."""

    def __init__(self, model, config, owner):
        super().__init__(model, config, owner)
        self._linear: dict[str, LinearLayer] = {}  # Those that something is folded into.
        self._into: dict[str, str] = {}
        self._behind: dict[str, list[str]] = {}  # What activations and residuals have become.
        self._reasons: dict[str, str] = {}

    @property
    def norms(self):
        """The normalizations that may be folded, by name, without those of the plans inside."""
        return {name: layer for name, layer in self.layers.items() if is_normalization(layer)}

    def fold(self, calls):
        """Folds all that can be. `calls` are those of each normalization, by layer."""
        for plan in self.plans:
            plan._fold_own(calls)

    def _fold_own(self, calls):
        is_new = True
        while is_new:  # One that is gone may have stood between another and its neighbour.
            is_new = False
            for name, norm in self.norms.items():
                if name not in self._into:
                    is_new |= self._fold_one(name, norm, calls.get(norm, []))
        for name, linear in self._linear.items():
            self.graph.layer_config(name)["use_bias"] = linear.use_bias

    def _fold_one(self, name, norm, calls):
        reasons = [self._obstacle(name, norm, calls)]
        if reasons == [None]:
            producer, *_ = self.graph.inputs(name)
            consumers = self.graph.consumers(name)
            consumer = next(filter(self._is_linear, consumers), None)
            sides = [(producer, True), (consumer, False)]
            reasons = []
            for neighbour, is_after in sides:
                if not self._is_linear(neighbour):
                    continue
                reason = self._fold_into(neighbour, name, norm, is_after)
                if reason is None:
                    self._into[name] = neighbour
                    self._gone.add(name)
                    return True
                reasons.append(reason)
        self._reasons[name] = "; ".join(reasons) or "no neighbour that can take it"
        return False

    def _is_linear(self, name):
        return isinstance(self.layers.get(name), tuple(KINDS))

    def _obstacle(self, name, norm, calls):
        """Why a normalization stays whatever its neighbours are, or None."""
        reason = why_no_affine(norm)
        if reason:
            return reason
        if self.graph.calls(name) > 1:
            return "it is shared"
        if len(self.graph.inputs(name)) != 1 + self.graph.takes(name, "residual"):
            return "it is given more than one tensor"
        if norm.trainable and any(map(_may_train, calls)):
            return "it is in training mode"
        # Ours leave out what a mask does; those of Keras do not, in inference.
        if isinstance(norm, ChannelNormalization) and any(call.mask is not None for call in calls):
            return "a mask arrives"
        return None

    def _fold_into(self, neighbour, name, norm, is_after):
        """Folds a normalization into the layer that it comes after or before, or says why not."""
        layer, rank = self.layers[neighbour], norm.input_spec.ndim
        if type(layer) not in KINDS:
            return f"'{neighbour}' has a class of its own, {type(layer).__name__}"
        if self.graph.calls(neighbour) > 1:
            return f"'{neighbour}' is shared"
        source = neighbour if is_after else name
        uses = self.graph.consumers(source)
        if len(uses) > 1:
            what = f"'{neighbour}'" if is_after else "it"
            return f"{what} {'is an output itself' if OUTPUT in uses else 'has several consumers'}"
        linear = self._linear.get(neighbour) or LinearLayer(layer)
        if list(canonical_axes(norm.axis, rank)) != [linear.channel_axis(rank)]:
            return f"its axis is not the channel axis of '{neighbour}'"
        if norm.compute_dtype != layer.compute_dtype:
            return f"its dtype is not that of '{neighbour}'"
        if not linear.is_plain:
            return f"'{neighbour}' has more weights than kernels and a bias"
        has_more = is_fused(self.graph, name, norm)
        if has_more and not is_after:
            return "its activation or residual is between"
        if is_after and linear.activation:
            return f"the activation of '{neighbour}', {linear.activation}, is between"
        scale, offset = self._affine(norm)
        if not is_after and linear.border and np.any(offset):
            return f"'{neighbour}' {linear.border}, and the offset is not 0"
        rule = "weights of a layer that takes a normalization must be finite"
        require(linear.is_finite, self._owner, rule, layer=called(layer))
        (linear.fold_after if is_after else linear.fold_before)(scale, offset)
        rule = f"weights with {called(norm)} folded into them must be finite"
        require(linear.is_finite, self._owner, rule, layer=called(layer))
        self._linear[neighbour] = linear
        if has_more:
            self._behind[name] = put_apart(self.graph, name, norm)
        self.graph.remove(name)
        return None

    def _affine(self, norm):
        scale, offset = inference_affine(norm)
        rule = "weights of a normalization must be finite, and its variance above -epsilon"
        is_finite = np.isfinite(scale).all() and np.isfinite(offset).all()
        require(is_finite, self._owner, rule, layer=called(norm))
        return scale, offset

    def _is_concerned(self, name, layer):
        del name
        return is_normalization(layer)

    def _row(self, name, layer):
        into, behind = self._into.get(name), self._behind.get(name)
        note = f"followed by {listed(behind)}" if behind else self._reasons.get(name, "")
        return Row(name, type(layer).__name__, into, note)

    def _row_inside(self, path, layer, where):
        return Row(path, type(layer).__name__, None, where)

    def _copy_layer(self, name, layer, copy):
        linear = self._linear.get(name)
        if linear is None:
            return super()._copy_layer(name, layer, copy)
        copy.trainable = layer.trainable
        copy.set_weights(linear.weights())
        return []


def _may_train(call):
    return tf.is_tensor(call.training) or bool(call.training)
