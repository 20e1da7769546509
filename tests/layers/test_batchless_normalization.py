"""`BatchlessNormalization` against its formulas in NumPy float64, and what they promise."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from tests import oracles

X = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 1.0], [9.0, -3.0]])
DY = np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 0.0], [2.0, 1.0]])
GAMMA, BETA = np.array([1.5, 0.5]), np.array([0.1, -0.2])
MEAN, STDDEV = np.array([3.0, 0.5]), np.array([2.0, 1.5])
WEIGHTS = {"log": "log_stddev", "abs": "stddev", "inv": "inverse_stddev"}
GOLDEN = {
    "log": [-0.8125, -0.33333333],
    "abs": [-0.40625, -0.22222222],
    "inv": [1.625, 0.5],
}


def layer_with(dtype="float64", shape=(None, 2), **options):
    layer = keras_norms.BatchlessNormalization(dtype=dtype, **{"epsilon": 0.0, **options})
    layer.build(shape)
    for variable, value in ((layer.gamma, GAMMA), (layer.beta, BETA)):
        if variable is not None:
            variable.assign(tf.cast(value, variable.dtype))
    layer.assign_statistics(MEAN, STDDEV)
    return layer


def loss_gradients(layer, x=X, mask=None):
    """What the added loss does to mean and standard deviation."""
    x = tf.cast(x, layer.compute_dtype)
    with tf.GradientTape() as tape:
        layer(x, training=True, mask=mask)
        (loss,) = layer.losses
    assert float(loss) == 0.0
    return [g.numpy() for g in tape.gradient(loss, layer.statistics_weights)]


def expected_gradients(x, mask=None, mean=MEAN, stddev=STDDEV, axis=-1):
    """Of the negative log-likelihood, by the mean and log(stddev)."""
    w = oracles.weights_like(x, axis, mask)
    axes = oracles.reduction_axes(x, axis)
    shape = [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]
    centred = np.where(w > 0, x - np.reshape(mean, shape), 0.0)
    count = np.maximum(w.sum(axes), 1e-300)
    channels = np.size(mean)
    first = (w * centred).sum(axes) / count
    second = (w * centred**2).sum(axes) / count
    present = 1.0 * (w.sum(axes) > 0)
    by_mean = -present * first / stddev**2 / channels
    return by_mean, present * (1.0 - second / stddev**2) / channels


@pytest.mark.parametrize("parametrization", WEIGHTS)
def test_golden_vectors(parametrization):
    layer = layer_with(parametrization=parametrization)
    assert [w.name.split("/")[-1].split(":")[0] for w in layer.statistics_weights] == [
        "mean",
        WEIGHTS[parametrization],
    ]
    by_mean, by_stored = loss_gradients(layer)
    np.testing.assert_allclose(by_mean, [-0.125, 0.11111111], rtol=1e-7)
    np.testing.assert_allclose(by_stored, GOLDEN[parametrization], rtol=1e-7)


@pytest.mark.parametrize("parametrization", WEIGHTS)
@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_the_added_gradient_is_that_of_the_likelihood(parametrization, epsilon):
    layer = layer_with(parametrization=parametrization, epsilon=epsilon)
    mean, stored = (tf.convert_to_tensor(v).numpy() for v in layer.statistics_weights)

    def likelihood(mean, stored):
        if parametrization == "log":
            log_stddev, inverse = stored, np.exp(-stored)
        elif parametrization == "abs":
            log_stddev, inverse = np.log(np.abs(stored) + epsilon), 1 / (np.abs(stored) + epsilon)
        else:
            log_stddev, inverse = -np.log(np.abs(stored) + epsilon), stored
        return np.mean(log_stddev) + 0.5 * np.mean(((X - mean) * inverse) ** 2)

    by_mean, by_stored = loss_gradients(layer)
    expected = oracles.numerical_gradient(lambda m: likelihood(m, stored), mean)
    np.testing.assert_allclose(by_mean, expected, rtol=1e-7, atol=1e-9)
    expected = oracles.numerical_gradient(lambda s: likelihood(mean, s), stored)
    np.testing.assert_allclose(by_stored, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parametrization", WEIGHTS)
def test_outputs_and_the_gradient_of_the_task(parametrization, training):
    layer = layer_with(parametrization=parametrization)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
    weights = [layer.gamma, layer.beta, *layer.statistics_weights]
    gradients = tape.gradient(y, [x, *weights], output_gradients=tf.constant(DY))
    z = (X - MEAN) / STDDEV
    np.testing.assert_allclose(y, GAMMA * z + BETA, rtol=1e-12)
    np.testing.assert_allclose(gradients[0], DY * GAMMA / STDDEV, rtol=1e-12)
    np.testing.assert_allclose(gradients[1], (DY * z).sum(0), rtol=1e-12)
    np.testing.assert_allclose(gradients[2], DY.sum(0), rtol=1e-12)
    for gradient in gradients[3:]:  # The task never moves the statistics.
        assert gradient is None or not np.any(gradient)
    assert len(layer.losses) == int(training)


def test_second_order_gradients_of_the_task():
    layer = layer_with()
    x, dy = tf.constant(X), tf.constant(DY)

    def penalty(x):
        with tf.GradientTape() as tape:
            tape.watch([x, dy])
            y = tf.reduce_sum(dy * tf.sin(layer(x, training=True)))
        dx, dgamma = tape.gradient(y, [x, layer.gamma])
        return tf.reduce_sum(dx**2) + tf.reduce_sum(dgamma**3)

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = penalty(x)
    expected = oracles.numerical_gradient(lambda x: penalty(tf.constant(x)), X)
    np.testing.assert_allclose(tape.gradient(value, x), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("axis, shape", [(-1, (6, 5, 3)), (1, (6, 3, 5)), (2, (2, 5, 3, 4))])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_layouts_masks_and_dtypes(rng, axis, shape, masked, dtype):
    x = tf.cast(rng.normal(2.0, 1.5, shape), dtype)
    exact = tf.cast(x, tf.float64).numpy()
    mask = rng.integers(0, 2, shape[0]).astype(bool) if masked else None
    layer = keras_norms.BatchlessNormalization(axis=axis, dtype=dtype)
    layer.build(shape)
    mean, stddev = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 0.5])
    layer.assign_statistics(mean, stddev)
    found = loss_gradients(layer, x, mask)
    by_mean, by_log = expected_gradients(exact, mask, mean, stddev, axis)
    np.testing.assert_allclose(found[0], by_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], by_log, rtol=1e-5, atol=1e-6)
    vector = [-1 if a == axis % len(shape) else 1 for a in range(len(shape))]
    y = (exact - mean.reshape(vector)) / stddev.reshape(vector)
    oracles.assert_close(tf.cast(layer(x), tf.float64), y, dtype)
    oracles.assert_close(tf.cast(layer(x, training=True, mask=mask), tf.float64), y, dtype)


def test_nan_under_a_mask_reaches_nothing():
    x = np.where([[True], [True], [False], [True]], X, np.nan)
    mask = np.array([True, True, False, True])
    layer = layer_with(monitor=0.5)
    by_mean, by_log = loss_gradients(layer, x, mask)
    expected = expected_gradients(X, mask)
    np.testing.assert_allclose(by_mean, expected[0], rtol=1e-12)
    np.testing.assert_allclose(by_log, expected[1], rtol=1e-12)
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        y = layer(tensor, training=True, mask=mask)
    gradients = tape.gradient(y, [tensor, layer.gamma])
    assert all(np.isfinite(v).all() for v in (y, *gradients))
    assert np.isfinite(float(tf.convert_to_tensor(layer.second_moment)))


def test_a_batch_that_is_masked_altogether_moves_nothing():
    layer = layer_with(monitor=0.5)
    before = float(tf.convert_to_tensor(layer.second_moment))
    for gradient in loss_gradients(layer, X, np.zeros(4, bool)):
        np.testing.assert_array_equal(gradient, np.zeros(2))
    assert float(tf.convert_to_tensor(layer.second_moment)) == before


@pytest.mark.parametrize("parametrization", WEIGHTS)
@pytest.mark.parametrize("multiplier", [1.0, 4.0])
def test_steps_of_one_instance_add_up_to_the_batch(rng, parametrization, multiplier):
    """The mean of the gradients of N batches of one is the gradient of one batch of N."""
    keras.utils.set_random_seed(3)
    options = dict(parametrization=parametrization, learning_rate_multiplier=multiplier)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="float64"),
            keras.layers.Dense(5, activation="tanh", dtype="float64"),
            keras_norms.BatchlessNormalization(dtype="float64", **options),
            keras.layers.Dense(3, activation="tanh", dtype="float64"),
            keras_norms.BatchlessNormalization(dtype="float64", **options),
            keras.layers.Dense(1, dtype="float64"),
        ]
    )
    x, targets = rng.normal(size=(8, 4)), rng.normal(size=(8, 1))

    def gradients(rows):
        with tf.GradientTape() as tape:
            y = model(tf.constant(x[rows]), training=True)
            loss = tf.reduce_mean((y - targets[rows]) ** 2)
            loss += tf.add_n([tf.cast(loss, tf.float64) for loss in model.losses])
        return [g.numpy() for g in tape.gradient(loss, model.trainable_variables)]

    single = [gradients(slice(i, i + 1)) for i in range(8)]
    for one, whole in zip(zip(*single, strict=True), gradients(slice(None)), strict=True):
        assert np.any(whole)
        np.testing.assert_allclose(np.mean(one, 0), whole, rtol=1e-6, atol=1e-14)


def test_a_frozen_layer_adds_nothing_and_keeps_its_monitor():
    layer = layer_with(monitor=0.5)
    layer.trainable = False
    np.testing.assert_array_equal(layer(X, training=True), layer(X))
    assert layer.losses == [] and float(tf.convert_to_tensor(layer.second_moment)) == 1.0


@pytest.mark.parametrize("training", [True, False])
def test_training_given_as_a_tensor(training):
    layer = layer_with(monitor=0.5)

    @tf.function
    def gradients(x, training):
        with tf.GradientTape() as tape:
            layer(x, training=training)
            (loss,) = layer.losses
        return tape.gradient(loss, layer.statistics_weights)

    by_mean, by_log = gradients(tf.constant(X), tf.constant(training))
    expected = expected_gradients(X)
    np.testing.assert_allclose(by_mean, training * expected[0], rtol=1e-12)
    np.testing.assert_allclose(by_log, training * expected[1], rtol=1e-12)
    second = ((X - MEAN) ** 2 / STDDEV**2).mean()
    found = float(tf.convert_to_tensor(layer.second_moment))
    np.testing.assert_allclose(found, 0.5 + 0.5 * second if training else 1.0, rtol=1e-12)


def test_the_monitor_is_a_moving_average_of_the_second_moment():
    layer, expected = layer_with(monitor=0.9), 1.0
    for scale in (1.0, 3.0, 0.5):
        layer(tf.constant(scale * X), training=True)
        second = ((scale * X - MEAN) ** 2 / STDDEV**2).mean()
        expected = 0.9 * expected + 0.1 * second
    np.testing.assert_allclose(tf.convert_to_tensor(layer.second_moment), expected, rtol=1e-12)
    assert [w.name for w in layer_with().non_trainable_weights] == []


@pytest.mark.parametrize("parametrization", WEIGHTS)
def test_statistics_can_be_read_and_set(parametrization):
    for multiplier in (1.0, 8.0):
        layer = layer_with(parametrization=parametrization, learning_rate_multiplier=multiplier)
        np.testing.assert_allclose(layer.statistics.mean, MEAN, rtol=1e-12)
        np.testing.assert_allclose(layer.statistics.stddev, STDDEV, rtol=1e-12)
        np.testing.assert_allclose(layer(X), GAMMA * (X - MEAN) / STDDEV + BETA, rtol=1e-12)
    fresh = keras_norms.BatchlessNormalization(
        parametrization=parametrization,
        mean_initializer=keras.initializers.Constant(3.0),
        stddev_initializer=keras.initializers.Constant(0.25),
        learning_rate_multiplier=2.0,
    )
    fresh.build((None, 2))
    np.testing.assert_allclose(fresh.statistics.mean, [3.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(fresh.statistics.stddev, [0.25, 0.25], rtol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "momentum", "Adam", "RMSprop"])
def test_the_learning_rate_multiplier_scales_steps_under_every_optimizer(rng, name):
    """Scaling the gradient would do nothing under Adam; the weight is divided instead."""
    optimizers = {
        "SGD": lambda rate: keras.optimizers.SGD(rate),
        "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
        "Adam": lambda rate: keras.optimizers.Adam(rate, epsilon=1e-12),
        "RMSprop": lambda rate: keras.optimizers.RMSprop(rate, epsilon=1e-12),
    }
    batches = rng.normal(1.0, 2.0, (4, 16, 2))

    def moved(multiplier, rate):
        layer = layer_with(learning_rate_multiplier=multiplier)
        optimizer = optimizers[name](rate)
        for batch in batches:
            with tf.GradientTape() as tape:
                layer(tf.constant(batch), training=True)
                (loss,) = layer.losses
            gradients = tape.gradient(loss, layer.statistics_weights)
            optimizer.apply_gradients(zip(gradients, layer.statistics_weights, strict=True))
        return np.concatenate([*layer.statistics])

    np.testing.assert_allclose(moved(5.0, 1e-3), moved(1.0, 5e-3), rtol=1e-6)
    assert np.max(np.abs(moved(5.0, 1e-3) - moved(1.0, 1e-3))) > 1e-4


def test_a_loss_weight_scales_the_gradient():
    single, triple = (loss_gradients(layer_with(nll_weight=w)) for w in (1.0, 3.0))
    for one, three in zip(single, triple, strict=True):
        np.testing.assert_allclose(three, 3.0 * one, rtol=1e-12)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_the_reported_loss_is_the_tasks_alone(rng, optimizer):
    x, y = rng.normal(size=(16, 4)).astype(np.float32), np.ones((16, 1), np.float32)
    losses = []
    for weight in (0.0, 2.0):
        keras.utils.set_random_seed(5)
        layer = keras_norms.BatchlessNormalization(nll_weight=weight)
        model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
        model.compile(getattr(keras.optimizers, optimizer)(1e-2), "mse")
        losses.append(model.fit(x, y, batch_size=16, verbose=0).history["loss"])
        moved = np.abs(tf.convert_to_tensor(layer.mean)).max() > 0
        assert moved == (weight > 0)
        assert model.evaluate(x, y, verbose=0) > 0
    assert losses[0] == losses[1]


def test_statistics_follow_the_data(rng):
    x = rng.normal([5.0, -2.0], [3.0, 0.5], (512, 2)).astype(np.float32)
    layer = keras_norms.BatchlessNormalization(monitor=0.9)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, x, batch_size=1, epochs=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(layer.statistics.mean, x.mean(0), atol=0.5)
    np.testing.assert_allclose(layer.statistics.stddev, x.std(0), rtol=0.25)


BAD = {
    "parametrization": ("sqrt", "`parametrization` must be one of 'log', 'abs', 'inv'"),
    "nll_weight": (-1.0, "`nll_weight` must be a finite number, at least 0"),
    "learning_rate_multiplier": (0.0, "`learning_rate_multiplier` must be a finite number above 0"),
    "monitor": (1.0, r"`monitor` must be None or a number in \[0, 1\)"),
    "epsilon": (-1e-3, "`epsilon` must be a finite number, at least 0"),
    "center": ("yes", "`center` must be a bool"),
}


@pytest.mark.parametrize("name", BAD)
def test_rejects_bad_arguments(name):
    value, message = BAD[name]
    with pytest.raises(ValueError, match=f"BatchlessNormalization 'norm_a': {message}. Received"):
        keras_norms.BatchlessNormalization(name="norm_a", **{name: value})


@pytest.mark.parametrize(
    "mean, stddev",
    [
        ([np.nan, 0.0], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, 0.0]),
        ([0.0, 0.0], [1.0, np.inf]),
        ([1e39, 0.0], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, 1e-46]),
    ],
)
@pytest.mark.parametrize("parametrization", WEIGHTS)
def test_rejects_statistics_that_are_none(mean, stddev, parametrization):
    layer = layer_with(dtype="float32", parametrization=parametrization)
    with pytest.raises(ValueError, match="statistics must be finite, the standard deviation above"):
        layer.assign_statistics(mean, stddev)
    np.testing.assert_allclose(layer.statistics.mean, MEAN)


def test_rejects_a_deviation_that_abs_cannot_have():
    layer = layer_with(parametrization="abs", epsilon=1e-3)
    with pytest.raises(ValueError, match="the standard deviation above 0.001"):
        layer.assign_statistics(MEAN, [1.0, 1e-4])


def test_rejects_a_layer_that_is_not_built():
    with pytest.raises(ValueError, match="'norm_a': a layer must be built to have statistics"):
        keras_norms.BatchlessNormalization(name="norm_a").assign_statistics([0.0], [1.0])


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_rejects_an_initial_deviation_that_is_none(value):
    layer = keras_norms.BatchlessNormalization(
        name="norm_a", stddev_initializer=keras.initializers.Constant(value)
    )
    with pytest.raises(
        ValueError, match="'norm_a': `stddev_initializer` must give numbers above 0"
    ):
        layer.build((None, 2))


@pytest.mark.parametrize("name", ["BatchNormalization", "BatchlessNormalization"])
def test_float_masks_keep_their_values_under_half_precision(name):
    """Keras would cast a weight of 1e5 to float16, which is infinite."""
    layer = getattr(keras_norms, name)(dtype="mixed_float16")
    layer.build((None, 1))
    with tf.GradientTape() as tape:
        y = layer(np.array([[1.0], [3.0]], "f"), training=True, mask=tf.constant([1e5, 1e5]))
        losses = [tf.reduce_sum(tf.cast(y, tf.float32)), *layer.losses]
    gradients = tape.gradient(losses, layer.trainable_variables)
    assert y.dtype == "float16" and np.isfinite(y).all()
    for value in [*layer.weights, *gradients]:
        assert np.isfinite(tf.convert_to_tensor(value)).all()


def test_rejects_statistics_of_another_size():
    layer = layer_with()
    with pytest.raises(ValueError, match=r"statistics must have the shape of the weights, \(2,\)"):
        layer.assign_statistics([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
