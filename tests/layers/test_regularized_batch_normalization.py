"""`RegularizedBatchNormalization` against its formulas in NumPy float64."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import keras_norms
from keras_norms.keras_api import keras
from keras_norms.schedules import LinearRamp
from tests import oracles
from tests.selection import BOTH

X = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 1.0], [9.0, -3.0]])
MEAN, VARIANCE = np.array([3.0, 0.5]), np.array([4.0, 2.25])
PENALTIES = ("variance_l1", "stddev_l2")
TARGETS = ("updated", "previous")
LAYER = keras_norms.RegularizedBatchNormalization


def layer_with(channels=2, dtype="float64", mean=MEAN, variance=VARIANCE, **options):
    layer = LAYER(dtype=dtype, **{"mean_weight": 0.1, "variance_weight": 0.01, **options})
    layer.build((None, channels))
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    return layer


def penalty_of(layer, x, mask=None):
    """The loss of a training call and its gradient with respect to `x`, as NumPy."""
    x = tf.constant(x, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        layer(x, training=True, mask=mask)
        (loss,) = layer.losses
    return loss.numpy(), tape.gradient(loss, x).numpy()


def oracle(x, penalty, penalty_uses, weights=(0.1, 0.01), mask=None, momentum=0.95, frozen=None):
    """The penalty of a batch. `frozen`: the batch that the moving statistics are updated with."""

    def moments(x):
        return [np.ravel(value) for value in oracles.moments(x, mask=mask)[1:]]

    mean, variance = moments(x)
    moving = MEAN, VARIANCE
    if penalty_uses == "updated":
        batch = moments(x if frozen is None else frozen)
        moving = [oracles.moving(*pair, momentum) for pair in zip(moving, batch, strict=True)]
    if penalty == "variance_l1":
        spread = np.abs(variance - moving[1])
    else:
        spread = (np.sqrt(variance) - np.sqrt(moving[1])) ** 2
    return weights[0] * np.sum((mean - moving[0]) ** 2) + weights[1] * np.sum(spread)


@BOTH
@pytest.mark.parametrize(
    "penalty, value, gradient",
    [
        (
            "variance_l1",
            0.1769375,
            [[0.0325, -0.01375], [0.0375, -0.02375], [0.0475, -0.01875], [0.0725, -0.03875]],
        ),
        (
            "stddev_l2",
            0.12433259,
            [
                [0.04256231, -0.02187843],
                [0.0442082, -0.02375],
                [0.0475, -0.02281422],
                [0.05572949, -0.02655735],
            ],
        ),
    ],
)
def test_golden_vectors(penalty, value, gradient):
    layer = layer_with(penalty=penalty)
    loss, dx = penalty_of(layer, X)
    np.testing.assert_allclose(loss, value, rtol=1e-7)
    np.testing.assert_allclose(dx, gradient, rtol=1e-6)
    moving = [tf.convert_to_tensor(v).numpy() for v in (layer.moving_mean, layer.moving_variance)]
    np.testing.assert_allclose(moving, [[3.05, 0.475], [4.275, 2.3125]], rtol=1e-12)


@BOTH
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("penalty_uses", TARGETS)
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_are_those_of_the_formula(rng, penalty, penalty_uses, masked):
    """By central differences, in which the moving statistics stand still."""
    x = rng.normal(1.0, 3.0, (7, 2))
    mask = np.array([1, 1, 0, 1, 1, 0, 1], bool) if masked else None
    options = dict(penalty=penalty, penalty_uses=penalty_uses)
    value, gradient = penalty_of(layer_with(**options), x, mask)
    np.testing.assert_allclose(value, oracle(x, mask=mask, **options), rtol=1e-12)
    expected = oracles.numerical_gradient(
        lambda moved: oracle(moved, mask=mask, frozen=x, **options), x
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)
    if masked:
        assert not gradient[~mask].any()


@BOTH
@pytest.mark.parametrize("masked", [False, True])
def test_all_but_the_penalty_is_batch_normalization(rng, masked):
    """Bit by bit: outputs, gradients of another loss, moving statistics, inference."""
    x = tf.constant(rng.normal(2.0, 3.0, (6, 5, 4)).astype(np.float32))
    mask = tf.constant(rng.random((6, 5)) > 0.4) if masked else None
    results = []
    for kind in (LAYER, keras_norms.BatchNormalization):
        layer = kind(momentum=0.9, epsilon=1e-3)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
            loss = tf.reduce_sum(tf.sin(y))
        gradients = tape.gradient(loss, [x, *layer.trainable_variables])
        results.append([y, *gradients, *layer.get_weights(), layer(x, training=False, mask=mask)])
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_updated_mean_term_is_momentum_squared_times_previous(penalty):
    options = dict(penalty=penalty, mean_weight=1.0, variance_weight=0.0)
    updated, previous = (penalty_of(layer_with(penalty_uses=u, **options), X)[0] for u in TARGETS)
    np.testing.assert_allclose(updated, 0.95**2 * previous, rtol=1e-12)


def test_equal_statistics_have_no_penalty_and_no_gradient():
    _, mean, variance = oracles.moments(X)
    for penalty in PENALTIES:
        layer = layer_with(mean=mean[0], variance=variance[0], penalty=penalty)
        value, gradient = penalty_of(layer, X)
        np.testing.assert_allclose(value, 0.0, atol=1e-14)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-8)


@BOTH
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("x", [np.full((4, 2), 3.0), np.ones((1, 2)), np.zeros((0, 2))])
def test_constant_single_and_empty_batches_are_finite(x, penalty):
    value, gradient = penalty_of(layer_with(penalty=penalty), x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    if len(x) == 0:
        assert value == 0.0


def test_a_fully_masked_batch_adds_nothing():
    layer = layer_with(penalty_uses="previous")
    value, gradient = penalty_of(layer, X, mask=np.zeros(4, bool))
    assert value == 0.0 and not gradient.any()


def test_inference_and_a_frozen_layer_add_no_loss():
    layer = layer_with()
    layer(X, training=False)
    assert layer.losses == []
    layer.trainable = False
    layer(X, training=True)
    assert layer.losses == []


def test_a_training_tensor_that_is_false_adds_nothing_and_does_not_count():
    layer = layer_with(mean_weight=LinearRamp(0, 10, 0.0, 1.0), penalty_uses="previous")

    @tf.function
    def loss_of(training):
        layer(tf.constant(X), training=training)
        return tf.add_n(layer.losses)

    assert loss_of(tf.constant(False)) == 0.0
    assert int(tf.convert_to_tensor(layer.step)) == 0
    assert loss_of(tf.constant(True)) > 0.0
    assert int(tf.convert_to_tensor(layer.step)) == 1


def test_weights_of_zero_are_batch_normalization_without_a_loss():
    layer = layer_with(mean_weight=0.0, variance_weight=0.0)
    layer(tf.constant(X), training=True)
    assert layer.losses == []


def test_a_ramp_warms_up_and_its_step_is_saved(tmp_path):
    options = dict(penalty_uses="previous", momentum=1.0, variance_weight=0.0)
    constant, _ = penalty_of(layer_with(mean_weight=1.0, **options), X)
    layer = layer_with(mean_weight=LinearRamp(0, 4, 0.0, 1.0), **options)
    for step in range(6):
        value, _ = penalty_of(layer, X)
        np.testing.assert_allclose(value, min(step / 4, 1.0) * constant, rtol=1e-12)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[-1]
    assert int(tf.convert_to_tensor(loaded.step)) == 6
    assert loaded.mean_weight.get_config() == layer.mean_weight.get_config()
    assert loaded.get_config() == layer.get_config()
    assert not hasattr(layer_with(), "step")


@BOTH
def test_virtual_batches_add_their_average_by_count(rng):
    x = rng.normal(1.0, 2.0, (8, 2))
    options = dict(penalty_uses="previous", momentum=1.0)
    parts = [penalty_of(layer_with(**options), part) for part in (x[:3], x[3:6], x[6:])]
    value, gradient = penalty_of(layer_with(virtual_batch_size=3, **options), x)
    shares = 3 / 8, 3 / 8, 2 / 8
    np.testing.assert_allclose(
        value, sum(s * v for s, (v, _) in zip(shares, parts, strict=True)), rtol=1e-12
    )
    expected = np.concatenate([s * g for s, (_, g) in zip(shares, parts, strict=True)])
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float32"])
def test_the_penalty_is_in_the_dtype_of_the_state(dtype):
    layer = LAYER(dtype=dtype)
    layer(tf.constant(X, tf.float32), training=True)
    assert layer.losses[0].dtype == tf.float32


def padded_step(x, mask, dy):
    """All results of a training step at the real positions, the penalty's gradient included."""
    layer = LAYER(mean_weight=0.5, variance_weight=0.2)
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=tf.constant(mask))
        loss = tf.reduce_sum(tf.where(mask[..., None], y * dy, 0.0)) + layer.losses[0]
    dx, *gradients = tape.gradient(loss, [x, *layer.trainable_variables])
    assert not np.any(dx[~mask])
    return [y[mask], dx[mask], *gradients, layer.losses[0], *layer.get_weights()]


@BOTH
@pytest.mark.parametrize("content", ["other", "nan", "inf"])
def test_content_of_padding_changes_nothing(rng, content):
    x, dy = rng.normal(size=(2, 5, 9, 3)).astype(np.float32)
    mask = np.arange(9) < np.array([[9], [4], [1], [0], [6]])
    filled = rng.normal(9.0, 50.0, x.shape) if content == "other" else float(content)
    other = np.where(mask[..., None], x, filled).astype(np.float32)
    for one, two in zip(padded_step(x, mask, dy), padded_step(other, mask, dy), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


@BOTH
def test_amount_of_padding_changes_rounding_only(rng):
    x, dy = rng.normal(size=(2, 5, 40, 3)).astype(np.float32)
    mask = np.arange(40) < np.array([[9], [4], [1], [0], [6]])
    short = padded_step(x[:, :9], mask[:, :9], dy[:, :9])
    for one, two in zip(short, padded_step(x, mask, dy), strict=True):
        one, two = np.asarray(one), np.asarray(two)
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6 * np.abs(two).max(initial=1e-30))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(mean_weight=-0.1), "`mean_weight` must be a number, at least 0.0, or a Keras"),
        (dict(variance_weight="much"), "`variance_weight` must be a number.*Received: .*'much'"),
        (dict(mean_weight=float("inf")), "`mean_weight` must be finite.*Received: mean_weight=inf"),
        (dict(variance_weight=float("nan")), "`variance_weight` must be a number"),
        (dict(penalty="l2"), "`penalty` must be one of 'variance_l1', 'stddev_l2'.*'l2'"),
        (dict(penalty_uses=None), "`penalty_uses` must be one of 'updated', 'previous'.*None"),
        (dict(penalty=np.array(["a", "b"])), "`penalty` must be one of"),
        (dict(mean_weight=10**400), "`mean_weight` must be"),
        (dict(momentum=1.5), "`momentum` must be a number in"),
    ],
)
def test_rejects(options, message):
    with pytest.raises(ValueError, match=f"^RegularizedBatchNormalization 'norm': {message}"):
        LAYER(name="norm", **options)


def test_published_weights_on_the_scale_of_a_mean_loss():
    assert LAYER.weight_of_token_sum(60, tokens=4096) == 60 / 4096
    layer = LAYER()
    assert layer.mean_weight == LAYER.weight_of_token_sum(0.1, 4096)
    assert layer.variance_weight == LAYER.weight_of_token_sum(0.01, 4096)
    for tokens in (0, -5, float("nan"), "many"):
        with pytest.raises(ValueError, match="`tokens` must be above 0"):
            LAYER.weight_of_token_sum(0.1, tokens)
    with pytest.raises(ValueError, match="`weight` must be a finite number"):
        LAYER.weight_of_token_sum(float("nan"), 4096)


def test_takes_the_config_of_a_stock_layer():
    stock = keras.layers.BatchNormalization(momentum=0.7, epsilon=0.01)
    layer = LAYER.from_config(stock.get_config())
    assert (layer.momentum, layer.epsilon, layer.penalty) == (0.7, 0.01, "variance_l1")


def test_y_is_computed_before_the_parameters_are_updated():
    """Where the loss is linear in y, only the penalty makes an update wait for the layer."""
    norm = layer_with()
    kernel = tf.Variable(tf.eye(2, dtype="float64"))
    variables = [kernel, *norm.trainable_variables]

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            y = norm(norm(x, training=True) @ kernel, training=True)
            loss = tf.add_n([tf.reduce_sum(y), *norm.losses])
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(gradient)
        return y

    # The order of reads and writes that TensorFlow's graph optimizer leaves.
    nodes = nodes_that_run(step, tf.constant(X))
    y = next(name for name, (kind, *_) in nodes.items() if kind == "_Retval")
    checked = 0
    for read in ancestors(y, nodes, control=False):
        kind, inputs, _ = nodes[read]
        if kind == "ReadVariableOp":
            for write, (kind, targets, _) in nodes.items():
                if kind.startswith("Assign") and targets[0] == inputs[0]:
                    is_before = read in ancestors(write, nodes)
                    assert is_before or write in ancestors(read, nodes), (read, write)
                    checked += 1
    assert checked >= len(variables)


def nodes_that_run(function, x):
    """Kind, inputs and control inputs of the nodes of the optimized graph, by name."""
    context.enable_run_metadata()
    function(x)
    graphs = context.export_run_metadata().function_graphs
    context.disable_run_metadata()
    graph = max((each.post_optimization_graph for each in graphs), key=lambda each: len(each.node))
    return {
        node.name: (
            node.op,
            [name.split(":")[0] for name in node.input if name[0] != "^"],
            [name[1:] for name in node.input if name[0] == "^"],
        )
        for node in graph.node
    }


def ancestors(name, nodes, control=True):
    found, names = set(), [name]
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            _, inputs, controls = nodes[name]
            names += inputs + controls if control else inputs
    return found
