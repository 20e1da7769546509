"""Layers in blocks that the backward pass recomputes: one update of the state, and the gradients
of the same model without recomputation."""

import functools
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.layers import rematerialization
from tests import strategies

BATCH, FEATURES = 8, 3
RAMP = keras_norms.schedules.LinearRamp(0, 9, 1.0, 3.0)
REGULARIZED = keras_norms.RegularizedBatchNormalization
LAYERS = {
    "batch": (keras_norms.BatchNormalization, {}),
    "renorm": (keras_norms.BatchRenormalization, dict(r_max=RAMP, d_max=RAMP)),
    "regularized": (REGULARIZED, dict(mean_weight=0.2, variance_weight=RAMP)),
    "adaptive": (keras_norms.AdaptiveBatchNormalization, dict(threshold=0.7)),
    "accumulated": (keras_norms.BatchNormalization, dict(accumulate_steps=3)),
    "light": (keras_norms.LightNormalization, dict(block_size=2, num_chunks=2)),
    "batchless": (keras_norms.BatchlessNormalization, dict(monitor=0.8)),
}
FACTOR = 3.0  # Of the losses that layers add, like a loss scale.


def plain(function):
    return function


def traced(function):
    return tf.function(function, autograph=False)


def compiled(function):
    return tf.function(function, autograph=False, jit_compile=True)


class Blocks(keras.Model):
    """The same layer twice in a block, in a block inside a block, and alone in a block."""

    def __init__(self, layer, recompute):
        super().__init__(dtype=layer.dtype)
        self.norm, self.recompute = layer, recompute
        self.first, self.second = (
            keras.layers.Dense(FEATURES, dtype=layer.dtype, kernel_initializer="orthogonal")
            for _ in range(2)
        )

    def call(self, x, training=None):
        def norm(x):
            return self.norm(x, training=training)

        def first(x):
            return tf.tanh(norm(tf.tanh(norm(self.first(x)))))

        def second(x):
            return self.recompute(product)(self.second(x))

        def product(x):
            return norm(x) * x

        x = self.recompute(second)(self.recompute(first)(x))
        return x + self.recompute(norm)(x)


def built(name, recompute, **options):
    keras.utils.set_random_seed(3)
    kind, more = LAYERS[name]
    layer = kind(name="norm", **{"dtype": "float64", **more, **options})
    model = Blocks(layer, recompute)
    model(tf.ones((BATCH, FEATURES), layer.dtype))
    return model


def batch():
    return tf.random.stateless_normal((BATCH, FEATURES), (1, 2), 1.0, 2.0, tf.float64)


def trained(model, whole=plain, forward=plain, steps=2):
    """Losses and gradients of steps of training, and the state after them."""

    @forward
    def outputs(x):
        return model(x, training=True), model.losses

    @whole
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, losses = outputs(x)
            task = tf.reduce_sum(y * tf.range(1.0, FEATURES + 1.0, dtype=tf.float64))
            total = tf.add_n([task, *[FACTOR * loss for loss in losses]])
        gradients = tape.gradient(total, [x, *model.trainable_variables])
        for variable, gradient in zip(model.trainable_variables, gradients[1:], strict=True):
            variable.assign_sub(0.01 * gradient)
        return [task, *losses], gradients

    results = [step(batch()) for _ in range(steps)]
    return tf.nest.flatten([results, [tf.convert_to_tensor(v) for v in model.norm.weights]])


@functools.cache
def trained_plainly(name, steps=2):
    return trained(built(name, plain), steps=steps)


def assert_same(actual, expected, rtol=1e-9):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol, atol=rtol)


def steps_are_those_without_recomputation(name, **options):
    assert_same(trained(built(name, tf.recompute_grad), **options), trained_plainly(name))


@pytest.mark.parametrize("whole", [pytest.param(plain, marks=pytest.mark.main_leg), traced])
@pytest.mark.parametrize("name", LAYERS)
def test_steps_are_those_without_recomputation(name, whole):
    steps_are_those_without_recomputation(name, whole=whole)


@pytest.mark.parametrize("name", ["batch", "regularized", "batchless"])
def test_steps_whose_forward_pass_alone_is_traced(name):
    steps_are_those_without_recomputation(name, forward=traced)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("renorm", marks=pytest.mark.main_leg),
        pytest.param("regularized", marks=pytest.mark.main_leg),
        "batchless",
    ],
)
def test_a_compiled_step_is_that_without_recomputation(name):
    actual = trained(built(name, tf.recompute_grad), whole=compiled, steps=1)
    assert_same(actual, trained_plainly(name, steps=1))


@pytest.mark.parametrize(
    "name, options",
    [("regularized", dict(synchronized=True, penalty_uses="previous")), ("batchless", {})],
    ids=["regularized", "batchless"],
)
def test_replicas_train_as_without_recomputation(name, options):
    strategy = strategies.mirrored(2)

    def results(recompute):
        with strategy.scope():
            model = built(name, recompute, **options)
        x = [batch()[:5], batch()[5:]]

        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.add_n([tf.reduce_sum(model(x, training=True) ** 2), *model.losses])
            return tape.gradient(total, [x, *model.trainable_variables])

        gradients = strategies.run(strategy, traced(step), x)
        return tf.nest.flatten([gradients, [tf.convert_to_tensor(v) for v in model.norm.weights]])

    assert_same(results(tf.recompute_grad), results(plain))


def test_a_block_may_return_the_losses_of_its_layers():
    def results(recompute):
        layer = REGULARIZED(mean_weight=0.2, variance_weight=0.3, dtype="float64")
        layer.build((None, FEATURES))
        x = batch()
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, loss = recompute(lambda x: (layer(x, training=True), tf.add_n(layer.losses)))(x)
            total = tf.reduce_sum(y**3) + FACTOR * loss
        return tape.gradient(total, [x, layer.gamma, layer.beta])

    assert_same(results(tf.recompute_grad), results(plain))


@pytest.mark.keras_3  # Keras 2 has nothing that recomputes.
def test_fit_with_keras_remat_and_in_a_remat_scope():
    """In the scope the whole model is a block, too, which Keras can only run eagerly."""

    def fitted(recompute, eager=False):
        model = built("regularized", recompute, dtype="float32")
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager)
        x = np.asarray(batch(), np.float32)
        losses = model.fit(x, x, epochs=2, batch_size=BATCH, verbose=0).history["loss"]
        return [losses, *model.get_weights()]

    expected = fitted(plain)
    assert_same(fitted(keras.remat), expected, 1e-5)
    with keras.RematScope(mode="full"):
        assert_same(fitted(plain, eager=True), expected, 1e-5)


@pytest.mark.keras_3  # Keras 2 has nothing that recomputes.
def test_a_remat_scope_leaves_the_layer_alone():
    """It would save no memory, and Keras could not trace it with `training=True`."""
    with keras.RematScope(mode="full"):
        layer = keras_norms.BatchNormalization(momentum=0.5)
    traced(layer)(tf.ones((4, 2)), training=True)
    np.testing.assert_allclose(layer.moving_mean, [0.5, 0.5])


@pytest.mark.keras_3  # Keras 2 has no stateless calls.
def test_rejects_losses_in_a_stateless_call():
    model = built("batchless", tf.recompute_grad)
    weights = [[v.value for v in model.trainable_variables]]
    weights.append([v.value for v in model.non_trainable_variables])
    with pytest.raises(RuntimeError, match="'norm'.*as by `stateless_call`"):
        model.stateless_call(*weights, batch(), training=True, return_losses=True)


def test_a_model_with_blocks_can_be_exported(tmp_path):
    """Keras 2 also traces training, in functions inside the block."""
    model = built("batch", tf.recompute_grad)
    (model.export if IS_KERAS_3 else model.save)(str(tmp_path / "model"))


def test_a_block_that_builds_its_layers_updates_them_once():
    """Keras may call a layer to find out a shape, in the first run only."""

    class Inside(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras_norms.BatchNormalization(momentum=0.5)

        def call(self, x, training=None):
            return self.norm(x, training=training)

    stack, x = keras.Sequential([Inside()]), tf.cast(batch(), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.recompute_grad(lambda x: stack(x, training=True))(x)
    tape.gradient(y, x)
    (inside,) = stack.layers
    np.testing.assert_allclose(inside.norm.moving_mean, 0.5 * tf.reduce_mean(x, 0), rtol=1e-5)


def test_nothing_is_kept_when_a_layer_is_gone(monkeypatch):
    monkeypatch.setattr(rematerialization, "_WAITING", 5)
    x = batch()

    def used():
        layer = REGULARIZED(dtype="float64")
        layer.build(x.shape)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.recompute_grad(lambda x: layer(x, training=True))(x)
            total = tf.reduce_sum(y) + layer.losses[0]
        tape.gradient(total, x)
        return weakref.ref(layer)

    layers = [used() for _ in range(12)]
    gc.collect()
    assert not any(layer() for layer in layers)
    assert len(vars(x)[rematerialization._KEY]) <= 5


def recomputed(layer, *arguments, block=plain):
    return tf.recompute_grad(block(lambda *_: layer(tf.ones((4, 2)), training=True)))(*arguments)


def test_rejects_a_call_from_a_function_inside_the_block():
    layer = keras_norms.BatchNormalization(name="norm")
    with pytest.raises(
        RuntimeError, match="'norm'.*directly, not in a `tf.function`, `tf.cond` or loop"
    ):
        recomputed(layer, tf.ones(()), block=traced)


def test_rejects_a_block_without_a_tensor():
    with pytest.raises(RuntimeError, match="must have a tensor among its positional arguments"):
        recomputed(keras_norms.BatchNormalization())


def test_rejects_blocks_of_a_tensorflow_that_it_does_not_know(monkeypatch):
    """Only there: recording stops nowhere else that layers are called in training."""
    assert None not in rematerialization._functions_of_tensorflow()
    monkeypatch.setattr(rematerialization, "_functions_of_tensorflow", lambda: (None, None))
    layer = keras_norms.BatchNormalization(name="norm")
    for run in (plain, traced):
        with tf.GradientTape():
            run(layer)(tf.ones((4, 2)), training=True)
        with pytest.raises(RuntimeError, match="in this TensorFlow"):
            run(lambda: recomputed(layer, tf.ones(())))()
