"""The Keras that TensorFlow uses, and the few places where Keras 2 and 3 differ.

The package follows `tf.keras`: Keras 3, or Keras 2 with TensorFlow 2.15 or with
`TF_USE_LEGACY_KERAS=1`.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 15):
    raise ImportError(
        f"keras_norms needs TensorFlow 2.15 or newer. Received: TensorFlow {tf.__version__}. "
        "Install one with `pip install -U tensorflow`."
    )
IS_KERAS_3 = hasattr(tf.keras, "Variable")
if IS_KERAS_3:
    import keras  # `tf.keras` of Keras 3 lacks some of its modules.

    # The first whose variables can have a value of their own on each replica.
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 10):
        raise ImportError(
            "keras_norms needs Keras 3.10 or newer, or Keras 2. "
            f"Received: Keras {keras.__version__}. Install one with `pip install -U keras`, or set "
            "TF_USE_LEGACY_KERAS=1 and install tf_keras. For keras_norms.jax, import jax first."
        )
else:
    keras = tf.keras


def backend_name():
    """The backend of Keras; Keras 2 has only one."""
    return keras.config.backend() if IS_KERAS_3 else "tensorflow"


def is_variable(value):
    """Whether `value` is a variable, of TensorFlow or of Keras 3."""
    return isinstance(value, (tf.Variable, keras.Variable) if IS_KERAS_3 else tf.Variable)


def check_backend(owner):
    """Raises if Keras runs on a backend other than TensorFlow."""
    if backend_name() != "tensorflow":
        raise RuntimeError(
            f"{owner}: keras_norms needs the TensorFlow backend of Keras. "
            f"Received: keras.config.backend()={backend_name()!r}. Set KERAS_BACKEND=tensorflow. "
            "For JAX there is keras_norms.jax."
        )


class LossWhenRead(NamedTuple):
    """A loss that is computed again, by `read(value)`, each time it is read."""

    value: tf.Tensor
    read: Callable


def read_loss(loss):
    return loss.read(loss.value) if isinstance(loss, LossWhenRead) else loss


class _Losses:
    """What Keras does with a layer's list of losses, some of which are `LossWhenRead`."""

    def __init__(self, losses):
        self.losses = losses

    def extend(self, losses):
        self.losses.extend(losses)

    def clear(self):
        self.losses.clear()

    def __getitem__(self, key):
        found = self.losses[key]
        return list(map(read_loss, found)) if isinstance(key, slice) else read_loss(found)

    def __iter__(self):
        return map(read_loss, self.losses)

    def __len__(self):
        return len(self.losses)


class _LossesOfThread(_Losses, threading.local):
    """The same, separately for each thread."""

    def __init__(self):
        super().__init__([])

    def __reduce__(self):
        return _LossesOfThread, ()  # A copy of a layer has no losses yet.


class LayerWithLosses(keras.layers.Layer):
    """A layer each of whose losses counts once on replicas, and may be a `LossWhenRead`.

    Keras has no public way for either.
    """

    def __init__(self, **kwargs):
        """Gives each replica its own list of this layer's `add_loss`, as Keras 2 does.

        Replicas are threads that share the layer object. One that waits for the others in the
        middle of a model, in a collective or where a dropout layer draws, would find that they
        have emptied and filled the list that Keras 3 has for all of them: losses are lost, and
        others counted twice; tests/layers/test_losses_of_replicas.py shows both.
        """
        super().__init__(**kwargs)
        if IS_KERAS_3:
            self._losses = _LossesOfThread()

    if not IS_KERAS_3:

        @keras.layers.Layer._eager_losses.getter
        def _eager_losses(self):
            return _Losses(keras.layers.Layer._eager_losses.fget(self))


class LayerWithUntrainedWeights(keras.layers.Layer):
    """A layer that leaves some of its trainable weights out of training: `untrained_weights`.

    Keras 3 asks each variable whether it is trained, Keras 2 the layer.
    """

    @property
    def untrained_weights(self):
        return []

    def mark_untrained_weights(self):
        """To be called where `untrained_weights` has changed."""
        if IS_KERAS_3:  # Where an attribute is assigned what it was, Keras does nothing.
            LayerWithUntrainedWeights.trainable.fset(self, self.trainable)

    if IS_KERAS_3:

        @keras.layers.Layer.trainable.setter
        def trainable(self, value):
            keras.layers.Layer.trainable.fset(self, value)
            for weight in self.untrained_weights:
                weight.trainable = False

    else:

        @property
        def trainable_weights(self):
            left_out = {id(weight) for weight in self.untrained_weights}
            return [w for w in super().trainable_weights if id(w) not in left_out]

        @property
        def non_trainable_weights(self):
            of_layer = super().non_trainable_weights
            return [*self.untrained_weights, *of_layer] if self.trainable else of_layer


def add_loss_when_read(layer, loss):
    """Adds a `LossWhenRead`. Returns False where Keras keeps losses outside the layer."""
    layer.add_loss(loss.value)
    kept = (layer._losses if IS_KERAS_3 else layer._eager_losses).losses
    if not kept or kept[-1] is not loss.value:
        return False
    kept[-1] = loss
    return True


def stock_layers(*names):
    """The layer classes of Keras with these names, as far as this Keras has them."""
    rooms = keras.layers, getattr(keras.layers, "experimental", None)
    found = (getattr(room, name, None) for name in names for room in rooms)
    return tuple(layer_class for layer_class in found if layer_class is not None)


def nested_layers(model):
    """`model` and all layers inside it, at any depth, each once.

    Keras has no public way to reach layers inside layers; this name is the same in Keras 2 and 3.
    """
    return list(model._flatten_layers())


def on_replicas(variable):
    """The `tf.Variable`s behind a variable of Keras 2 or 3: one, or one for each replica."""
    if IS_KERAS_3 and isinstance(variable, keras.Variable):
        variable = variable.value
    return list(getattr(variable, "values", [variable]))


def state_of(model):
    """Reads what calls of a model change: untrained weights, seeds, metrics.

    Returns a function that restores it.
    """
    if IS_KERAS_3:
        variables = [*model.non_trainable_variables, *model.metrics_variables]
    else:
        of_metrics = (v for metric in model.metrics for v in metric.variables)
        variables = [*model.non_trainable_weights, *of_metrics]
    parts = [part for variable in variables for part in on_replicas(variable)]
    before = [tf.identity(part) for part in parts]

    def restore():
        for part, value in zip(parts, before, strict=True):
            part.assign(value)

    return restore


@contextlib.contextmanager
def state_kept(model):
    """Restores the state of a model afterwards."""
    restore = state_of(model)
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def state_kept_on_error(model):
    """Restores the state of a model where an error or an interruption breaks off the block."""
    restore = state_of(model)
    try:
        yield
    except BaseException:
        restore()
        raise
