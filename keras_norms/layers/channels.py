"""What all layers of the package share: channel axes, gamma and beta, inputs, configs."""

import functools
import inspect
from typing import Any

import tensorflow as tf

from keras_norms.keras_api import (
    IS_KERAS_3,
    LayerWithLosses,
    LayerWithUntrainedWeights,
    check_backend,
    keras,
)
from keras_norms.keras_weights import add_parameter
from keras_norms.layers import keras_2
from keras_norms.layers.activations import activation_of, rectifier_of, serialized
from keras_norms.layers.inputs import (
    check_residual,
    mask_of,
    real_tensor,
    static_if_possible,
)
from keras_norms.layers.rules import check_arguments, check_frozen
from keras_norms.ops.layout import ChannelView, canonical_axes
from keras_norms.ops.rectifier import sum_of
from keras_norms.ops.weights import row_weights
from keras_norms.printable import called
from keras_norms.schedules import as_config

SERIALIZE = {
    "initializer": keras.initializers.serialize,
    "regularizer": keras.regularizers.serialize,
    "constraint": keras.constraints.serialize,
    "activation": serialized,
}


class Untracked:
    """Holds a value that Keras must not find among the attributes of a layer."""

    def __init__(self, value):
        self.value = value


@functools.cache
def argument_names(layer_class):
    """The constructor arguments of a layer class, those of its parents here included.

    They are read off the signatures, so that an argument stands once. Classes that users derive
    have their own `get_config`.
    """
    names: dict[str, None] = {}
    for parent in reversed(layer_class.__mro__):
        if parent.__module__.startswith("keras_norms.") and "__init__" in vars(parent):
            parameters = list(inspect.signature(parent.__init__).parameters.values())[1:]
            names |= {p.name: None for p in parameters if p.kind != p.VAR_KEYWORD}
    return tuple(names)


class ChannelNormalization(LayerWithUntrainedWeights, LayerWithLosses):
    """`y = scale * (x - center) + shift` per channel, with gamma and beta in scale and shift."""

    # Whether kernels may add the residual and rectify, rather than TensorFlow afterwards.
    _fuses = True

    def __init__(
        self,
        axis,
        epsilon,
        center,
        scale,
        beta_initializer,
        gamma_initializer,
        beta_regularizer,
        gamma_regularizer,
        beta_constraint,
        gamma_constraint,
        frozen=(),
        activation=None,
        **kwargs,
    ):
        check_backend(type(self).__name__)
        # Inputs are cast here. Keras would cast float masks as well, to half precision.
        super().__init__(**{"autocast": False, **kwargs})
        self.supports_masking = True
        self.gamma = self.beta = None
        self.axis = axis
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.frozen = frozen
        self.activation = activation_of(activation, self._owner)
        self._takes_residual = None  # Not known before the first call.
        check_arguments(self, argument_names(ChannelNormalization), self._owner)
        self.axis = [int(a) for a in axis] if isinstance(axis, (list, tuple)) else int(axis)

    def build(self, input_shape):
        axes = canonical_axes(self.axis, len(input_shape), self._owner)
        for axis in axes:
            if input_shape[axis] is None:
                raise ValueError(
                    f"{self._owner}: the size of a channel axis must be known to create the "
                    f"weights. Received: input_shape={tuple(input_shape)}, axis={self.axis}."
                )
        self._check_build(axes)
        shape = tuple(n if a in axes else 1 for a, n in enumerate(input_shape))
        if len(axes) == 1:
            shape = (input_shape[axes[0]],)
        if self.scale:
            self.gamma = add_parameter(
                self,
                "gamma",
                shape,
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = add_parameter(
                self,
                "beta",
                shape,
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )
        self._add_state(shape)
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={a: input_shape[a] for a in axes}
        )
        self.built = True
        self.mark_untrained_weights()

    @property
    def frozen(self):
        """What training leaves alone: `"statistics"`, `"parameters"`, both or nothing."""
        return list(self._frozen)

    @frozen.setter
    def frozen(self, names):
        check_frozen(names, self._owner)
        self._frozen = tuple(sorted(set(names)))
        self.mark_untrained_weights()

    @property
    def untrained_weights(self):
        named = {"parameters": self.parameter_weights, "statistics": self.statistics_weights}
        return [
            w for name in ("parameters", "statistics") if name in self._frozen for w in named[name]
        ]

    @property
    def parameter_weights(self):
        """`gamma` and `beta`, as far as the layer has them and is built."""
        return [w for w in (self.gamma, self.beta) if w is not None]

    @property
    def statistics_weights(self):
        """The statistics that an optimizer trains; layers with moving statistics have none."""
        return []

    def build_from_config(self, config):
        with keras_2.name_scope_of(self):
            super().build_from_config(config)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        """The call that `keras.RematScope` makes: the plain one.

        The layer keeps nothing for its gradient but the input. To recompute it saves no memory.
        """
        return layer_call

    def _check_build(self, axes):
        """Raises if the layer cannot be built for these channel axes."""

    def _add_state(self, shape):
        """Creates the weights beside gamma and beta."""
        raise NotImplementedError

    @property
    def _owner(self):
        return called(self)

    def _mode(self, training):
        """`training` as a bool, or as a tensor whose value is not known yet."""
        if not self.trainable or "statistics" in self._frozen:
            return False
        if not tf.compat.v1.executing_eagerly_outside_functions():
            return keras_2.mode_without_eager(training, self._owner)
        return static_if_possible(training, self._owner)

    def _checked(self, inputs):
        """The inputs as a tensor of the compute dtype with known channel sizes."""
        inputs = real_tensor(inputs, "inputs", self._owner)
        shape = inputs.shape.as_list()
        if any(shape[a] is None for a in self.input_spec.axes):
            for a, size in self.input_spec.axes.items():
                shape[a] = size
            inputs = tf.ensure_shape(inputs, shape)
        return tf.cast(inputs, self.compute_dtype)

    def _viewed(self, inputs, mask):
        """The inputs with one channel axis, their weights, and the way back."""
        mask = mask_of(inputs) if mask is None else mask
        inputs = self._checked(inputs)
        axes = canonical_axes(self.axis, inputs.shape.rank, self._owner)
        view = ChannelView(axes, inputs.shape.rank)
        weights = row_weights(mask, inputs, axes, self._owner)
        weights = None if weights is None else view.apply(weights)
        return view.apply(inputs), weights, view.axis, lambda y: view.restore(y, inputs)

    def _after(self, residual, inputs):
        """What kernels do in the pass that writes `y`: a residual and a `Rectifier`, or None."""
        residual = self._viewed_residual(residual, inputs)
        if not self._fuses:
            return dict(residual=None, rectifier=None)
        return dict(residual=residual, rectifier=rectifier_of(self.activation))

    def _finished(self, y, residual):
        """What is left to do to the `y` of a call."""
        if not self._fuses and residual is not None:
            y = sum_of(y, tf.cast(residual, y.dtype))
        rectifier = rectifier_of(self.activation)
        if self.activation is None or (self._fuses and rectifier is not None):
            return y
        # An activation that is a layer has a dtype of its own.
        return tf.cast((rectifier or self.activation)(y), y.dtype)

    @property
    def takes_residual(self):
        """Whether calls have a `residual`; None before the first."""
        return self._takes_residual

    def _check_takes(self, residual):
        takes = residual is not None
        if self._takes_residual not in (None, takes):
            first = "with" if self._takes_residual else "without"
            raise ValueError(
                f"{self._owner}: a layer that was first called {first} `residual` is always called "
                f"so. Received: residual={'a tensor' if takes else None}."
            )

    def _viewed_residual(self, residual, inputs):
        """The residual with one channel axis and in the compute dtype, or None."""
        self._check_takes(residual)
        if residual is not None:
            residual = real_tensor(residual, "residual", self._owner)
            self._check_residual(residual, tf.convert_to_tensor(inputs))
        self._takes_residual = residual is not None  # Now that the call is sound.
        if residual is None:
            return None
        residual = tf.cast(residual, self.compute_dtype)
        axes = canonical_axes(self.axis, residual.shape.rank, self._owner)
        return ChannelView(axes, residual.shape.rank).apply(residual)

    def _check_residual(self, residual, inputs):
        dtypes = self.compute_dtype, self.variable_dtype
        check_residual(residual, inputs, dtypes, self._owner)

    def _vector(self, variable, dtype=None):
        value = tf.convert_to_tensor(variable)
        value = value if dtype is None else tf.cast(value, dtype)
        return value if value.shape.rank == 1 else tf.reshape(value, [-1])

    def _assign(self, variable, vector):
        is_vector = len(variable.shape) == 1
        variable.assign(vector if is_vector else tf.reshape(vector, variable.shape))

    def _read_parameters(self):
        named = {"gamma": self.gamma, "beta": self.beta}
        return {name: self._vector(v) for name, v in named.items() if v is not None}

    def compute_output_shape(self, input_shape):
        canonical_axes(self.axis, len(input_shape), self._owner)
        return input_shape

    if IS_KERAS_3:  # Which has a model's graph made by this, where Keras 2 traces the call.

        def compute_output_spec(self, inputs, training=None, mask=None, residual=None):
            self._check_takes(residual)
            if residual is not None:
                self._check_residual(residual, inputs)
            self._takes_residual = residual is not None
            return super().compute_output_spec(inputs)

    def get_config(self):
        config = super().get_config()
        layer_class: Any = type(self)  # Classes are hashable, which mypy does not see.
        for name in argument_names(layer_class):
            value = getattr(self, name)
            config[name] = SERIALIZE.get(name.rpartition("_")[2], as_config)(value)
        return config
