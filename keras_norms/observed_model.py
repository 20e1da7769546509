"""A model run on batches, with a function of what its layers receive."""

import tensorflow as tf

from keras_norms.keras_api import forget_losses
from keras_norms.layers.observation import observed


class ObservedModel:
    """A function of a batch that runs a model and returns `compute(calls, *arguments)`.

    Traced again only where a size that was the same in all batches so far differs.

    Args:
        model: a Keras model whose weights are there.
        layers: those whose calls are observed.
        compute: `compute(calls, *arguments)`, traced with the model: tensors from a list of `Call`.
        training: the mode in which the model runs. Defaults to `False`.
        owner: for messages.
        remedy: what to do where a call cannot be reached, for the message.
    """

    def __init__(self, model, layers, compute, *, training=False, owner, remedy):
        self._model, self._layers, self._compute = model, layers, compute
        self._training, self._owner, self._remedy = training, owner, remedy
        self._function = tf.function(self._run, autograph=False)
        self._specs = self._concrete = None

    def _run(self, batch, *arguments):
        with observed(self._layers) as calls:
            self._model(batch, training=self._training)
        forget_losses(self._model)  # Tensors of this graph, of no use outside.
        # Keras 2 may call layers in a graph of its own before, to know the shapes.
        calls = [call for call in calls if not _is_symbolic(call.graph)]
        for call in calls:
            if call.graph is not tf.compat.v1.get_default_graph():
                raise ValueError(
                    f"{self._owner}: layer '{call.layer.name}' runs inside a tf.cond, a loop or a "
                    f"tf.function, where its inputs cannot be reached. {self._remedy}"
                )
        return self._compute(calls, *arguments)

    def __call__(self, batch, *arguments):
        batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
        self.trace(batch, *arguments)
        try:
            return self._concrete(batch, *arguments)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            parts = [f"{part.dtype.name} {part.shape}" for part in tf.nest.flatten(batch)]
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # TensorFlow begins with where in the graph it was.
            telling = [line for line in lines if "rror:" not in line and "Detected at" not in line]
            raise ValueError(
                f"{self._owner}: `data` must fit the model. Received: a batch of "
                f"{', '.join(parts)}, which the model cannot take: {(telling or lines)[0]}"
            ) from error

    def trace(self, batch, *arguments):
        """Makes sure that there is a graph for such a batch."""

        def widened(tensor, spec=None):
            shape = tensor.shape
            if shape.rank > 0:
                shape = tf.TensorShape([None, *shape[1:]])
            if spec is not None:
                shape = spec.shape.most_specific_compatible_shape(shape)
            return tf.TensorSpec(shape, tensor.dtype)

        before = [self._specs] if _is_alike(batch, self._specs) else []
        specs = tf.nest.map_structure(widened, batch, *before)
        if specs != self._specs:
            # Tracing may fail, or be broken off: what was there before is then still there.
            concrete = self._function.get_concrete_function(specs, *arguments)
            self._specs, self._concrete = specs, concrete


def _is_alike(batch, specs):
    """Whether one graph may serve both: the same structure and ranks."""
    try:
        tf.nest.assert_same_structure(batch, specs)
    except (TypeError, ValueError):
        return False
    pairs = zip(tf.nest.flatten(batch), tf.nest.flatten(specs), strict=True)
    return specs is not None and all(a.shape.rank == b.shape.rank for a, b in pairs)


def _is_symbolic(graph):
    return graph.name == "keras_graph" or graph.name.endswith("scratch_graph")
