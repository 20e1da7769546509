"""A model run on batches, with a function of what its layers receive."""

import contextlib
import inspect
import re
from typing import Any, NamedTuple

import tensorflow as tf

from keras_norms.keras_api import state_kept
from keras_norms.keras_models import forget_losses
from keras_norms.layers.inputs import mask_of
from keras_norms.ops.layout import ChannelView, canonical_axes
from keras_norms.ops.weights import row_weights
from keras_norms.printable import printable

# Of a model that is called with what it does not take.
_ERRORS_OF_KERAS = ValueError, TypeError, LookupError, AttributeError, tf.errors.OpError
_WHERE = "rror:", "Detected at", "Exception encountered when calling", "in user code", "File "


class ObservedModel:
    """A function of a batch that runs a model and returns `compute(calls, *arguments)`.

    It is traced again only when a size changes that was the same in all batches before.

    Args:
        model: a built Keras model.
        layers: those whose calls are observed.
        compute: `compute(calls, *arguments)`, traced with the model: tensors from a list of `Call`.
        before: None, or `before(call)`, traced before the layer runs: what it returns is
            `call.found`. It may assign to variables that the layer reads.
        training: the mode in which the model runs. Defaults to `False`.
        owner: for messages.
        remedy: what to do where a call cannot be reached, for the message.
    """

    def __init__(self, model, layers, compute, *, before=None, training=False, owner, remedy):
        self._model, self._layers, self._compute = model, layers, compute
        self._before, self._training, self._owner, self._remedy = before, training, owner, remedy
        self._function = tf.function(self._run, autograph=False)
        self._specs: Any = None
        self._concrete: Any = None

    def _run(self, batch, *arguments):
        with observed(self._layers, self._before) as calls:
            with self._says_what_does_not_fit(batch, *_ERRORS_OF_KERAS):
                self._model(batch, training=self._training)
        forget_losses(self._model)  # Tensors of this graph, of no use outside.
        # Keras 2 may call layers in a graph of its own before, to know the shapes.
        calls = [call for call in calls if not is_symbolic(call.graph)]
        for call in calls:
            if call.graph is not tf.compat.v1.get_default_graph():
                raise ValueError(
                    f"{self._owner}: layer '{printable(call.layer.name)}' runs inside a tf.cond, a "
                    f"loop or a tf.function, where its inputs cannot be reached. {self._remedy}"
                )
        return self._compute(calls, *arguments)

    def __call__(self, batch, *arguments):
        batch = tf.nest.map_structure(self._tensor, batch)
        self.trace(batch, *arguments)
        errors = tf.errors.InvalidArgumentError, tf.errors.UnimplementedError
        with self._says_what_does_not_fit(batch, *errors):
            return self._concrete(batch, *arguments)

    def _tensor(self, value):
        try:
            return tf.convert_to_tensor(value)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self._owner}: `data` must hold arrays or tensors. Received: "
                f"{type(value).__name__}."
            ) from error

    @contextlib.contextmanager
    def _says_what_does_not_fit(self, batch, *errors):
        """Turns errors about a batch into one sentence."""
        try:
            yield
        except errors as error:
            parts = [f"{part.dtype.name} {part.shape}" for part in tf.nest.flatten(batch)]
            text = re.sub(r"\x1b\[\d*m", "", str(error))  # Keras 3 prints in bold.
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            # TensorFlow begins with where in the graph it was, Keras with the layer called.
            telling = [line for line in lines if not any(start in line for start in _WHERE)]
            first = printable((telling or lines or [type(error).__name__])[0])
            raise ValueError(
                f"{self._owner}: `data` must fit the model. Received: a batch of "
                f"{', '.join(parts)}, which the model cannot take: {first}"
            ) from error

    def over(self, batches, progress):
        """Yields the results batch by batch; restores the state of the model afterwards."""
        with state_kept(self._model):  # A layer may be told to train even in inference mode.
            for batch in batches:
                yield self(batch)
                progress.add(1)

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


class Call(NamedTuple):
    """A call of a layer that has a channel axis."""

    layer: Any
    inputs: tf.Tensor
    mask: tf.Tensor | None
    graph: tf.Graph
    training: Any = None
    found: Any = None
    outputs: tf.Tensor | None = None

    def view(self):
        """The inputs with one channel axis, their weights or None, and that axis."""
        rank = self.inputs.shape.rank
        axes = canonical_axes(self.layer.axis, rank)
        view = ChannelView(axes, rank)
        weights = row_weights(self.mask, self.inputs, axes, f"layer '{printable(self.layer.name)}'")
        weights = None if weights is None else view.apply(weights)
        return view.apply(tf.cast(self.inputs, self.layer.compute_dtype)), weights, view.axis


@contextlib.contextmanager
def observed(layers, before=None):
    """Yields a list to which each call of one of these layers is appended.

    `before(call)` is called before the layer runs, and returns `call.found`.

    Stock Keras layers are observed too, since `call` of the layer object is replaced meanwhile. A
    function that was traced before is not observed.
    """
    calls = []
    layers = list(dict.fromkeys(layers))

    def observing(layer, original):
        signature = inspect.signature(original)

        def call(*args, **kwargs):
            given = signature.bind(*args, **kwargs).arguments
            inputs = args[0] if args else next(iter(given.values()))  # Whatever they are called.
            mask = kwargs.get("mask", given.get("mask"))
            mask = mask_of(inputs) if mask is None else mask
            training = kwargs.get("training", given.get("training"))
            made = Call(layer, inputs, mask, tf.compat.v1.get_default_graph(), training)
            found = before(made) if before and not is_symbolic(made.graph) else None
            outputs = original(*args, **kwargs)
            calls.append(made._replace(found=found, outputs=outputs))
            return outputs

        return call

    replaced = [(layer, vars(layer).get("call")) for layer in layers]
    for layer in layers:
        layer.call = observing(layer, layer.call)
    try:
        yield calls
    finally:
        for layer, own in replaced:
            del layer.call
            if own is not None:  # Someone else had replaced it before.
                layer.call = own


def _is_alike(batch, specs):
    """Whether one graph may serve both: the same structure and ranks."""
    try:
        tf.nest.assert_same_structure(batch, specs)
    except (TypeError, ValueError):
        return False
    pairs = zip(tf.nest.flatten(batch), tf.nest.flatten(specs), strict=True)
    return specs is not None and all(a.shape.rank == b.shape.rank for a, b in pairs)


def is_symbolic(graph):
    """Whether Keras 2 calls layers in it only to know shapes."""
    return graph.name == "keras_graph" or graph.name.endswith("scratch_graph")
