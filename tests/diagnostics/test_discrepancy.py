"""`training_inference_discrepancy` against its definition in NumPy, ours and stock layers."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.diagnostics import training_inference_discrepancy
from keras_norms.keras_api import IS_KERAS_3, keras
from tests import oracles, strategies

X = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 1.0], [9.0, -3.0]])
KINDS = {
    "stock": keras.layers.BatchNormalization,
    "batch": keras_norms.BatchNormalization,
    "adaptive": keras_norms.AdaptiveBatchNormalization,
    "range": keras_norms.RangeBatchNormalization,
    "sync": keras_norms.SyncBatchNormalization,
    "regularized": keras_norms.RegularizedBatchNormalization,
    "renorm": keras_norms.BatchRenormalization,
}


def with_moving(layer, mean, variance):
    layer.moving_mean.assign(mean)
    if hasattr(layer, "moving_variance"):
        layer.moving_variance.assign(variance)
    elif hasattr(layer, "moving_scale"):
        layer.moving_scale.assign(np.sqrt(variance) + layer.epsilon)
    else:
        layer.moving_stddev.assign(np.sqrt(np.add(variance, layer.epsilon)))


def model_of(layer, mean, variance):
    model = keras.Sequential([keras.Input((len(mean),)), layer])
    with_moving(layer, mean, variance)
    return model


def measured(model, data, **options):
    return training_inference_discrepancy(model, data, verbose=0, **options)


def oracle(batches, moving_mean, moving_variance, axis=-1, masks=None):
    """The four terms, averaged over batches."""
    moving_stddev = np.sqrt(moving_variance)
    found = []
    for batch, mask in zip(batches, masks or [None] * len(batches), strict=True):
        _, mean, variance = (np.ravel(v) for v in oracles.moments(batch, axis, mask))
        stddev = np.sqrt(variance)
        norm = np.linalg.norm(moving_stddev)
        found.append(
            [
                np.linalg.norm(mean - moving_mean) / norm,
                np.linalg.norm(stddev - moving_stddev) / norm,
                np.abs(moving_mean - mean) / stddev,
                np.abs(moving_stddev / stddev - 1.0),
            ]
        )
    return [np.mean(term, axis=0) for term in zip(*found, strict=True)]


def assert_is(discrepancy, expected, batches):
    for actual, value in zip(discrepancy[:4], expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=2e-6, atol=1e-7)
    assert discrepancy.batches == batches


@pytest.mark.parametrize("kind", KINDS)
def test_golden_vectors(kind):
    """The ratios of norms before the update, and what the authors' code logs after it."""
    layer = KINDS[kind](epsilon=1e-9, name="norm")
    found = measured(model_of(layer, [3.0, 0.5], [4.0, 2.25]), X)["norm"]
    np.testing.assert_allclose(found[:2], [0.4472136, 0.45759124], rtol=1e-6)
    with_moving(layer, [3.05, 0.475], [4.275, 2.3125])
    found = measured(keras.Sequential([keras.Input((2,)), layer]), X)["norm"]
    channels = found.channel_mean.mean(), found.channel_variance.mean()
    np.testing.assert_allclose(channels, [0.28105944, 0.25816814], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_averages_over_batches_and_leaves_the_model_unchanged(rng, kind):
    keras.utils.set_random_seed(1)
    layer = KINDS[kind](name="norm")
    stack = [keras.Input((6, 3)), keras.layers.Dropout(0.3), layer]
    model = keras.Sequential([*stack, keras.layers.Dense(2), keras_norms.BatchNormalization()])
    with_moving(layer, [0.5, -1.0, 2.0], [1.0, 4.0, 0.25])
    before = [np.array(tf.convert_to_tensor(v)) for v in (*model.weights, *seeds(model))]
    x = rng.normal(1.0, 2.0, (10, 6, 3)).astype(np.float32)
    found = measured(model, x, batch_size=4)
    assert list(found) == ["norm", model.layers[-1].name]
    assert all(d.batches == 3 for d in found.values())
    after = [np.array(tf.convert_to_tensor(v)) for v in (*model.weights, *seeds(model))]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def seeds(model):
    return model.non_trainable_variables if IS_KERAS_3 else []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [-1, 1])
def test_equals_the_definition(rng, kind, axis):
    layer = KINDS[kind](name="norm", axis=axis)
    model = keras.Sequential([keras.Input((3, 3)), layer])
    moving = np.array([0.5, -1.0, 2.0]), np.array([1.0, 4.0, 0.25])
    with_moving(layer, *moving)
    x = rng.normal(1.0, 2.0, (7, 3, 3)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((x, x)).batch(3)
    expected = oracle([x[:3], x[3:6], x[6:]], *moving, axis=axis)
    assert_is(measured(model, dataset)["norm"], expected, 3)
    assert_is(measured(model, dataset, steps=1)["norm"], oracle([x[:3]], *moving, axis=axis), 1)


def test_a_gap_without_moving_variance_is_infinite():
    model = model_of(keras.layers.BatchNormalization(name="norm"), [0.0, 0.0], [0.0, 0.0])
    found = measured(model, X)["norm"]
    assert found.mean == found.variance == np.inf
    assert measured(model, np.zeros_like(X))["norm"][:2] == (0.0, 0.0)


def test_measures_training_mode(rng):
    """The second layer receives what the first makes of the batch, not of its moving statistics."""
    x = rng.normal(5.0, 3.0, (8, 2)).astype(np.float32)
    layers = [keras_norms.BatchNormalization(name=name, epsilon=1e-9) for name in ("one", "two")]
    model = keras.Sequential([keras.Input((2,)), *layers])
    assert measured(model, x)["two"].mean < 1e-6


def test_masked_positions_are_left_out(rng):
    x = rng.normal(1.0, 2.0, (6, 5, 2)).astype(np.float32)
    mask = np.arange(5) < np.array([5, 2, 0, 1, 3, 4])[:, None]
    x[~mask] = 0.0
    stack = [keras.Input((5, 2)), keras.layers.Masking(), keras_norms.BatchNormalization(name="n")]
    found = measured(keras.Sequential(stack), x, batch_size=3)
    expected = oracle([x[:3], x[3:]], np.zeros(2), np.ones(2), masks=[mask[:3], mask[3:]])
    assert_is(found["n"], expected, 2)
    assert measured(keras.Sequential(stack), np.zeros_like(x)) == {}


@pytest.mark.filterwarnings("ignore:.*a virtual batch of one value per channel")
def test_virtual_batches_are_batches(rng):
    x = rng.normal(1.0, 2.0, (7, 2)).astype(np.float32)
    layer = keras_norms.BatchNormalization(virtual_batch_size=3, name="norm")
    found = measured(model_of(layer, [0.0, 1.0], [1.0, 2.0]), x, batch_size=7)["norm"]
    moving = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    with np.errstate(divide="ignore"):  # The last one has one value. By channel that is infinite,
        expected = oracle([x[:3], x[3:6], x[6:]], *moving)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-6)
    assert np.isfinite(found.channel_mean).all()  # and here divided by the root of epsilon.
    assert found.batches == 3


def test_subclassed_nested_and_shared_layers(rng):
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization(name="norm")

        def call(self, inputs, training=None):
            return self.norm(2.0 + self.norm(inputs, training=training), training=training)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [Block(), Block()]

        def call(self, inputs, training=None):
            for block in self.blocks:
                inputs = block(inputs, training=training)
            return inputs

    found = measured(Model(), rng.normal(size=(8, 2)).astype(np.float32), batch_size=4)
    assert list(found) == ["norm", "norm_1"]
    assert [d.batches for d in found.values()] == [4, 4]  # Each call of a layer is one.


def test_replicas_keep_their_own_moving_statistics(rng):
    strategy = strategies.mirrored(2)
    with strategy.scope():
        layer = keras_norms.BatchNormalization(name="norm")
        model = keras.Sequential([keras.Input((2,)), layer])
    x = rng.normal(size=(4, 2)).astype(np.float32)
    strategies.run(strategy, tf.function(lambda x: layer(x, training=True)), [x[:2], x[2:]])

    def parts():
        variable = layer.moving_mean.value if IS_KERAS_3 else layer.moving_mean
        return [np.array(part) for part in strategy.experimental_local_results(variable)]

    before = parts()
    assert not np.allclose(*before)
    measured(model, x)
    for one, other in zip(before, parts(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "model, data, message",
    [
        (keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), X, "must have a layer with"),
        ("model", X, "`model` must be a Keras model. Received: str"),
        (None, np.zeros((0, 2)), "`data` must hold at least one"),
        (None, iter([X]), "must not be an iterator"),
        (None, X[:, :1], None),
    ],
)
def test_rejects(model, data, message):
    if model is None:
        model = model_of(keras.layers.BatchNormalization(), [1.0, 2.0], [3.0, 4.0])
    before = model.get_weights() if hasattr(model, "get_weights") else []
    with pytest.raises(
        ValueError, match=message and f"training_inference_discrepancy: .*{message}"
    ):
        measured(model, data)
    for one, other in zip(before, getattr(model, "get_weights", list)(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_failure_leaves_the_model_unchanged():
    model = model_of(keras.layers.BatchNormalization(), [1.0, 2.0], [3.0, 4.0])
    before = model.get_weights()

    class Breaks:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index == 1:
                raise RuntimeError("broken")
            return X

    with pytest.raises(RuntimeError, match="broken"):
        measured(model, Breaks())
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert "call" not in vars(model.layers[-1])
