"""Changes to the graph of a model: in its config, and for what Keras builds from that."""

from textwrap import shorten

import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.keras_api import keras, nested_layers
from keras_norms.keras_models import forget_losses, trusting_configs
from keras_norms.models.graph_config import copied, graph_of
from keras_norms.models.input_shapes import symbolic_inputs
from keras_norms.models.model_tree import copy_own_state, walk
from keras_norms.models.observed import is_symbolic, observed
from keras_norms.printable import called, printable


class GraphPlan:
    """What is to change in the config of a model, and then to be copied to what that builds.

    A model inside of the model has a plan of its own, which edits its part of the config.

    Args:
        model: a built Functional or Sequential model. Its layers are read only.
        config: its config. It is changed.
        owner: for messages.
    """

    def __init__(self, model, config, owner):
        self.model, self.graph, self._owner = model, graph_of(model, config), owner
        self.layers = {layer.name: layer for layer in model.layers}
        self.inner = {
            name: type(self)(layer, self.graph.layer_config(name), owner)
            for name, layer in self.layers.items()
            if graph_of(layer, self.graph.layer_config(name))
        }
        self._gone: set[str] = set()

    @property
    def plans(self):
        """This one, and those inside of it."""
        return [self, *(plan for inner in self.inner.values() for plan in inner.plans)]

    def rows(self):
        """A `Row` for each layer that the plan is about, at any depth."""
        for name, layer in self.layers.items():
            if name in self.inner:
                for row in self.inner[name].rows():
                    yield row._replace(path=f"{name}/{row.path}")
            elif self._is_concerned(name, layer):
                yield self._row(name, layer)
            else:
                where = f"it is inside of '{name}', a {type(layer).__name__}"
                for each in nested_layers(layer):
                    if self._is_concerned(None, each):
                        yield self._row_inside(f"{name}/{printable(each.name)}", each, where)

    def copy_to(self, new):
        """Copies weights, and what is trainable, to the model that was built from the config.

        Returns:
            Pairs of variables that are the same in both.
        """
        new.trainable = self.model.trainable  # First: in Keras 2 it sets that of all layers.
        same = []
        for name, layer in self.layers.items():
            if name in self._gone:
                continue
            copy = new.get_layer(name)
            if name in self.inner:
                same += self.inner[name].copy_to(copy)
            else:
                same += self._copy_layer(name, layer, copy)
        return same

    # What a plan is about:

    def _is_concerned(self, name, layer):
        """Whether a layer has a row. `name` is that in the graph, or None for one inside of it."""
        raise NotImplementedError

    def _row(self, name, layer):
        raise NotImplementedError

    def _row_inside(self, path, layer, where):
        """The row of a layer that no graph shows."""
        raise NotImplementedError

    def _copy_layer(self, name, layer, copy):
        """Copies a layer that is in both models; see `copy_to`."""
        del name
        for old, made in zip(nested_layers(layer), nested_layers(copy), strict=True):
            made.trainable = old.trainable
        pairs = zip(walk(layer), walk(copy), strict=True)
        return [pair for (_, old), (_, made) in pairs for pair in copy_own_state(old, made)]


def config_of_graph(model, owner):
    """The config of a Functional or Sequential model, which may be changed.

    Raises:
        ValueError: for anything else.
    """
    is_built = isinstance(model, keras.Model) and model.built
    described = called(model) if isinstance(model, keras.layers.Layer) else type(model).__name__
    require(is_built, owner, "`model` must be a built Keras model", model=described)
    try:
        config = copied(model.get_config())
    except NotImplementedError:  # Keras 3, where it cannot know the arguments of a class.
        config = None
    rule = "`model` must be Functional or Sequential; in others calls are code, not a graph"
    has_inputs = graph_of(model, config) and symbolic_inputs(model) is not None
    require(has_inputs, owner, rule, model=called(model))
    return config


def model_of_config(model, config, owner):
    """A model of the class of another, with this config; its weights are new."""
    try:
        with trusting_configs():  # This one is not from a file.
            return type(model).from_config(config)
    except Exception as error:  # Whatever layers of others raise.
        # The last line tells the cause, before those with what a layer was called on.
        told = str(error).partition("rguments received by")[0].strip().splitlines()
        told = [line for line in told if line.strip() not in ("", "A", "Call a")]
        line = told[-1] if told else type(error).__name__
        raise ValueError(
            f"{owner}: Keras must be able to build the model from its config. "
            f"Received: {called(model)}, of which it says: {printable(shorten(line, 300))}"
        ) from error


def traced_calls(model, layers):
    """The calls of these layers, by layer: the model is traced, not run."""

    @tf.function(autograph=False)
    def run(batch):
        model(batch)  # With `training=False` Keras 3 would overrule calls with `training=True`.
        forget_losses(model)  # Tensors of this graph, of no use outside.

    def spec(tensor):
        return getattr(tensor, "type_spec", None) or tf.TensorSpec(tensor.shape, tensor.dtype)

    if not layers:
        return {}
    with observed(layers) as calls:
        run.get_concrete_function(tf.nest.map_structure(spec, symbolic_inputs(model)))
    found: dict = {}
    for call in calls:
        if not is_symbolic(call.graph):
            found.setdefault(call.layer, []).append(call)
    return found
