"""The order in which layers of a model depend on each other."""

import tensorflow as tf

from keras_norms.models.observed import ObservedModel


def strata(model, layers, batch, owner, remedy):
    """Those layers that the model runs in inference mode, sorted by what they depend on.

    Args:
        model: a built Keras model.
        layers: a list of layers inside it.
        batch: inputs of the model. It is traced, and nothing is computed.
        owner: for messages.
        remedy: what to do where a call cannot be reached, for the message.

    Returns:
        A list of lists of layers, each of which depends on layers of earlier lists only. Layers
        that are called several times may depend on each other in a circle: the first to run then
        has a list of its own.
    """
    needs: dict = {}

    def trace(calls):
        """Follows, operation by operation, which layers a value depends on."""
        own: dict[str, frozenset] = {}
        for call in calls:
            name = call.outputs.op.name
            own[name] = own.get(name, frozenset()) | {call.layer}
        depends: dict[str, frozenset] = {}
        nothing: frozenset = frozenset()
        for op in tf.compat.v1.get_default_graph().get_operations():
            inputs = (depends.get(tensor.op.name, nothing) for tensor in op.inputs)
            depends[op.name] = own.get(op.name, nothing).union(*inputs)
        needs.update({call.layer: nothing for call in calls})
        for call in calls:
            needs[call.layer] |= depends[call.inputs.op.name] - {call.layer}
        return tf.constant(0)

    observed = ObservedModel(model, layers, trace, owner=owner, remedy=remedy)
    observed.trace(tf.nest.map_structure(tf.convert_to_tensor, batch))
    found: list[list] = []
    done: set = set()
    while len(done) < len(needs):
        left = [layer for layer in needs if layer not in done]
        stratum = [layer for layer in left if needs[layer] <= done] or left[:1]
        found.append(stratum)
        done.update(stratum)
    return found
