"""`activation(y + residual)` in one layer is the layer, the sum and the activation, one by one."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras, on_replicas
from keras_norms.layers.activations import rectifier_of
from keras_norms.layers.inputs import mask_of
from tests.catalog import ROWS
from tests.selection import BOTH

BN, LIGHT = keras_norms.BatchNormalization, keras_norms.LightNormalization
# One variant of each layer, and of those that compute another way.
NAMES = (
    "batch",
    "batch_first",
    "batch_virtual",
    "sync",
    "renorm",
    "regularized",
    "batchless",
    "range",
    "light",
    "adaptive",
)


def leaky(slope):
    return keras.layers.LeakyReLU(**{"negative_slope" if IS_KERAS_3 else "alpha": slope})


ACTIVATIONS = {
    "none": lambda: None,
    "relu": lambda: "relu",
    "leaky": lambda: leaky(0.3),
    "capped": lambda: keras.layers.ReLU(0.5),
    "silu": lambda: "silu",
}


def applied(activation, y):
    if isinstance(activation, keras.layers.Layer):
        activation = type(activation).from_config(
            {**activation.get_config(), "dtype": y.dtype.name}
        )
    return y if activation is None else keras.activations.get(activation)(y)


def steps(row, activation, residual, fused, rng):
    """Outputs, gradients and states of a step, and inference; `fused` or one by one."""
    layer = row.make(dtype="float64", activation=activation if fused else None)
    layer.build(row.shape)
    x, r, dy = (tf.constant(rng.normal(1.0, 2.0, row.shape)) for _ in range(3))
    r = r if residual else None
    trained = [on_replicas(variable)[0] for variable in layer.trainable_variables]
    given = [x, *trained, *([r] if residual else [])]
    with tf.GradientTape() as tape:
        tape.watch(given)
        y = outputs(layer, x, r, activation, fused, training=True)
        loss = tf.reduce_sum(y * dy) + sum(layer.losses)
    found = [y, *tape.gradient(loss, given), *map(tf.convert_to_tensor, layer.weights)]
    return [*found, outputs(layer, x, r, activation, fused, training=False)]


def outputs(layer, x, r, activation, fused, training):
    if fused:
        return layer(x, training=training, **({} if r is None else {"residual": r}))
    y = layer(x, training=training)
    return applied(activation, y if r is None else y + r)


CASES = [
    pytest.param(name, activation, residual, id=f"{name}-{activation}{'-residual' * residual}")
    for name in NAMES
    for activation in ACTIVATIONS
    for residual in (False, True)
    if name == "batch" or (activation, residual) in (("leaky", True), ("silu", False))
]


@BOTH
@pytest.mark.parametrize("name, activation, residual", CASES)
def test_is_what_layers_one_by_one_compute(name, activation, residual):
    activation = ACTIVATIONS[activation]()
    found = [
        steps(ROWS[name], activation, residual, fused, np.random.default_rng(3))
        for fused in (True, False)
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_compute_dtype_stays(policy):
    """Of an activation that is a layer, the dtype policy is left aside."""
    rng = np.random.default_rng(1)
    for layer_class, options in ((BN, {}), (LIGHT, dict(block_size=4, num_chunks=2))):
        layer = layer_class(activation=leaky(0.3), dtype=policy, **options)
        x, r = (tf.constant(rng.normal(size=(8, 4)), layer.compute_dtype) for _ in range(2))
        y = layer(x, training=True, residual=r)
        assert y.dtype == layer.compute_dtype
        plain = layer_class(dtype=policy, **options)(x, training=True)
        expected = tf.nn.leaky_relu(tf.cast(plain, tf.float32) + tf.cast(r, tf.float32), 0.3)
        tolerance = 3e-3 if layer.compute_dtype == "float16" else 3e-2
        np.testing.assert_allclose(
            tf.cast(y, tf.float32), expected, rtol=tolerance, atol=3 * tolerance
        )


@keras.saving.register_keras_serializable(package="tests")
def halved(y):
    return 0.5 * y


@pytest.mark.parametrize("name", [*ACTIVATIONS, "function"])
def test_config_round_trip(name):
    activation = halved if name == "function" else ACTIVATIONS[name]()
    for layer_class in (BN, keras_norms.BatchlessNormalization):
        layer = layer_class(activation=activation)
        again = layer_class.from_config(layer.get_config())
        assert type(again.activation) is type(layer.activation)
        assert rectifier_of(again.activation) == rectifier_of(layer.activation)
        x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
        np.testing.assert_array_equal(again(x), layer(x))
    assert (BN(activation="linear").activation is None) and (BN().activation is None)


def test_a_model_with_a_residual_is_saved(tmp_path):
    x = keras.Input((4,))
    y = keras.layers.Dense(4)(x)
    y = BN(activation=leaky(0.3))(BN(activation="relu")(y), residual=x)
    model = keras.Model(x, y)
    model.save(tmp_path / "model.keras")
    data = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(data), model(data))
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(clone(data), model(data))


def test_the_mask_of_a_preceding_layer_arrives_beside_a_residual():
    """Keras hands masks to layers that are called on one tensor only."""
    tokens = keras.Input((4,))
    embedded = keras.layers.Embedding(9, 3, mask_zero=True)(tokens)
    norm = BN(momentum=0.0, activation="relu")
    model = keras.Model(tokens, norm(embedded, residual=embedded))
    x = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 0]])
    model(x, training=True)
    counted = model.layers[1].get_weights()[0][x[x > 0]].astype("float64")
    np.testing.assert_allclose(norm.moving_mean, counted.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, counted.var(0), rtol=1e-5)
    assert mask_of(model(x)) is not None


# Bad input.


@pytest.mark.parametrize(
    "value",
    ["no_such", 3, keras.layers.Dense(2), keras.layers.ReLU],
    ids=["name", "number", "weights", "class"],
)
def test_rejects_activations(value):
    rule = "`activation` must be None, the name of a Keras activation, a function, or a `ReLU` or"
    with pytest.raises(ValueError, match=f"^BatchNormalization.*: {rule}.*Received: activation="):
        BN(activation=value)


RESIDUALS = {
    "shape": (tf.ones((2, 1)), r"Received: residual of shape \(2, 1\).*inputs of shape \(2, 3\)"),
    "rank": (tf.ones((2, 3, 3)), "must have the shape and dtype of `inputs`"),
    "dtype": (tf.ones((2, 3), tf.float64), "dtype float64, inputs of shape .* dtype float32"),
    "half": (tf.ones((2, 3), tf.float16), "dtype float16, inputs of shape .* dtype float32"),
    "string": (tf.constant([["a"] * 3] * 2), "`residual` must be a dense tensor of real numbers"),
    "ragged": (tf.ragged.constant([[1.0, 2.0], [3.0]]), "Received: a ragged tensor"),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_rejects_residuals(name):
    residual, message = RESIDUALS[name]
    with pytest.raises(ValueError, match=message):
        BN(activation="relu")(tf.ones((2, 3)), residual=residual)


def test_a_shortcut_from_before_the_first_layer_under_mixed_precision():
    """Where the inputs are of the compute dtype and the model's own input is float32."""
    layer = BN(activation="relu", dtype="mixed_bfloat16")
    y = layer(tf.ones((2, 3), tf.bfloat16), residual=tf.ones((2, 3)))
    assert y.dtype == tf.bfloat16


def test_rejects_a_residual_of_another_shape_when_a_graph_is_built():
    x, r = keras.Input((4, 4, 3)), keras.Input((1, 1, 3))
    with pytest.raises(ValueError, match="`residual` must have the shape and dtype of `inputs`"):
        BN(activation="relu")(x, residual=r)


def test_a_call_that_is_refused_decides_nothing():
    layer = BN(activation="relu")
    with pytest.raises(ValueError, match="`residual` must have the shape"):
        layer(tf.ones((2, 3)), residual=tf.ones((2, 1)))
    assert layer(tf.ones((2, 3))).shape == (2, 3)


def test_rejects_a_residual_in_some_calls_only():
    x, rule = tf.ones((2, 3)), "`residual` is always called so"
    for first, then in (({}, {"residual": x}), ({"residual": x}, {})):
        layer = BN()
        layer(x, **first)
        with pytest.raises(
            ValueError, match=f"first called with(out)? {rule}. Received: residual="
        ):
            layer(x, **then)


@BOTH
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_sizes_that_are_known_late_never_broadcast(training, size):
    layer = BN(activation="relu")
    layer.build((None, 4, 2))
    unknown = tf.TensorSpec((None, None, 2))

    @tf.function(input_signature=[unknown, unknown])
    def call(x, residual):
        return layer(x, training=training, residual=residual)

    x = tf.random.stateless_normal((6, 4, 2), (1, 2))
    y = layer(x, training=training, residual=x)
    np.testing.assert_allclose(call(x, x), y, rtol=1e-5, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(x, tf.ones((6, size, 2)))
