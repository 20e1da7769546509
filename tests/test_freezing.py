"""Layers frozen for fine-tuning: what moves, what is computed, what is saved, what is refused."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras

CHANNELS = 3
LAYERS = {
    "batch": keras_norms.BatchNormalization,
    "renorm": functools.partial(keras_norms.BatchRenormalization, r_max=2.0, d_max=1.0),
    "regularized": keras_norms.RegularizedBatchNormalization,
    "adaptive": functools.partial(keras_norms.AdaptiveBatchNormalization, band=0.1),
    "light": functools.partial(keras_norms.LightNormalization, block_size=None, num_chunks=2),
    "batchless": functools.partial(keras_norms.BatchlessNormalization, mean_initializer="ones"),
}
EACH_PART = "batch", "batchless"
PARTS = {
    "all": dict(),
    "statistics": dict(parameters=False),
    "parameters": dict(statistics=False),
}


def batch():
    return np.random.default_rng(5).normal(3.0, 2.0, (16, CHANNELS)).astype(np.float32)


def nested(norm):
    """The layer in a layer, in a model in a model."""
    inner = keras.Sequential([keras.Input((1, CHANNELS)), keras.layers.TimeDistributed(norm)])
    shape = keras.layers.Reshape((1, CHANNELS))
    return keras.Sequential([keras.Input((CHANNELS,)), shape, inner, keras.layers.Dense(1)])


def is_parameter(weight):
    return weight.name.split("/")[-1].split(":")[0] in ("gamma", "beta")


def fit(model):
    """What a step of training moves of the layer "norm": parameters, statistics."""
    norm = norm_of(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [np.asarray(tf.convert_to_tensor(w)) for w in norm.weights]
    model.fit(batch(), np.ones((16, 1), "f"), batch_size=16, verbose=0)
    moved = [
        is_parameter(weight)
        for was, weight in zip(before, norm.weights, strict=True)
        if not np.array_equal(was, np.asarray(tf.convert_to_tensor(weight)))
    ]
    return True in moved, False in moved


def norm_of(model):
    return model.layers[1].layers[0].layer


CASES = [pytest.param(kind, parts, id=f"{kind}-{parts}") for kind in EACH_PART for parts in PARTS]
CASES += [
    pytest.param(kind, "statistics", id=f"{kind}-statistics", marks=pytest.mark.main_leg)
    for kind in LAYERS
    if kind not in EACH_PART
]


@pytest.mark.parametrize("kind, parts", CASES)
def test_what_moves_and_how_it_computes(kind, parts, tmp_path):
    """Also in a model that is saved and loaded, and after the way back."""
    model = nested(LAYERS[kind](name="norm"))
    assert keras_norms.freeze_batch_norm(model, **PARTS[parts]) == ["norm"]
    assert keras_norms.freeze_batch_norm(model, **PARTS[parts]) == []
    model.trainable = False
    model.trainable = True
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        norm, x = norm_of(each), tf.constant(batch())
        assert fit(each) == (parts == "statistics", parts == "parameters")
        y, in_training = norm(x, training=False), norm(x, training=True)
        infers = parts != "parameters" or kind == "batchless"
        assert np.allclose(y, in_training, atol=1e-5) == infers
        assert len(norm.losses) == (parts == "parameters" and kind in ("regularized", "batchless"))
    assert keras_norms.unfreeze_batch_norm(loaded) == ["norm"]
    assert fit(loaded) == (True, True)


@pytest.mark.main_leg
def test_frozen_statistics_are_not_watched():
    model = nested(LAYERS["batch"](frozen=["statistics"]))
    model.compile("sgd", "mse")
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy()
    with pytest.raises(ValueError, match="a layer with batch statistics must be trained"):
        model.fit(batch(), np.ones((16, 1), "f"), callbacks=[tid], verbose=0)


def test_gamma_and_beta_train_behind_frozen_statistics():
    """Their gradients, by hand: of y = gamma * (x - 2) / sqrt(4) + beta."""
    layer = keras_norms.BatchNormalization(epsilon=0.0, dtype="float64", frozen=["statistics"])
    layer.build((None, 1))
    layer.moving_mean.assign([2.0])
    layer.moving_variance.assign([4.0])
    x = tf.constant([[4.0], [8.0]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        total = tf.reduce_sum(y * [[1.0], [3.0]])
    weights = [tf.convert_to_tensor(w) for w in (layer.moving_mean, layer.moving_variance)]
    np.testing.assert_array_equal(np.ravel(weights), [2.0, 4.0])
    gradients = tape.gradient(total, [x, *layer.trainable_variables])
    found = np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradients])
    np.testing.assert_allclose(found, [0.5, 1.5, 1.0 + 9.0, 4.0])


def test_frozen_weights_are_those_that_are_not_trained():
    layer = keras_norms.BatchNormalization(frozen=["parameters"])
    layer.build((None, 2))
    assert layer.trainable_weights == []
    assert [id(w) for w in layer.non_trainable_weights] == [id(w) for w in layer.weights]
    names = [w.name.split("/")[-1].split(":")[0] for w in layer.weights]
    assert names == ["gamma", "beta", "moving_mean", "moving_variance"]
    layer.trainable = False
    assert len(layer.weights) == len(layer.non_trainable_weights) == 4
    layer.trainable = True
    layer.frozen = []
    assert len(layer.trainable_weights) == 2


def three():
    """A layer of ours, and two of stock Keras of which the second is frozen."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((CHANNELS,)),
            keras_norms.BatchNormalization(name="ours"),
            layers.BatchNormalization(name="stock_a"),
            layers.BatchNormalization(name="stock_b", trainable=False),
            layers.LayerNormalization(name="layer"),
        ]
    )


def flags(model):
    return [(layer.trainable, getattr(layer, "frozen", None)) for layer in model.layers]


def test_the_names_lead_back_to_how_it_was():
    model = three()
    before = flags(model)
    changed = keras_norms.freeze_batch_norm(model)
    assert changed == ["ours", "stock_a"]
    assert [layer.trainable for layer in model.layers] == [True, False, False, True]
    assert keras_norms.unfreeze_batch_norm(model, pattern=changed) == changed
    assert flags(model) == before
    assert keras_norms.unfreeze_batch_norm(model, pattern=[]) == []
    assert keras_norms.unfreeze_batch_norm(model) == ["stock_b"]


@pytest.mark.main_leg
def test_a_name_is_not_a_pattern_of_others():
    layers = [keras_norms.BatchNormalization(name=name) for name in ("norm[1]", "norm1")]
    model = keras.Sequential([keras.Input((CHANNELS,)), *layers])
    assert keras_norms.freeze_batch_norm(model, pattern="norm[1]") == ["norm[1]"]
    assert keras_norms.freeze_batch_norm(model, pattern="norm[0-9]") == ["norm1"]


def test_a_layer_that_was_frozen_before_stays_so():
    model = three()
    model.get_layer("ours").trainable = False
    keras_norms.freeze_batch_norm(model, pattern="ours")
    keras_norms.unfreeze_batch_norm(model, pattern="ours")
    assert not model.get_layer("ours").trainable


def test_patterns_and_names_that_occur_twice():
    inner = keras.Sequential([keras.Input((2,)), keras_norms.BatchNormalization(name="norm")])
    model = keras.Sequential([keras.Input((2,)), keras_norms.BatchNormalization(name="norm")])
    model.add(inner)
    assert keras_norms.freeze_batch_norm(model, pattern="norm_1") == ["norm_1"]
    assert inner.layers[-1].frozen == ["parameters", "statistics"]
    assert keras_norms.freeze_batch_norm(model, pattern=["no*", "norm"]) == ["norm"]
    with pytest.raises(ValueError, match="must match a layer of norm, norm_1. .*pattern='encoder"):
        keras_norms.unfreeze_batch_norm(model, pattern=["norm", "encoder*"])
    assert inner.layers[-1].frozen == ["parameters", "statistics"]


@pytest.mark.parametrize("options", [dict(statistics=False), dict(parameters=False)])
@pytest.mark.parametrize("change", ["freeze_batch_norm", "unfreeze_batch_norm"])
def test_rejects_a_part_of_a_stock_layer_and_changes_nothing(change, options):
    model = three()
    before = flags(model)
    with pytest.raises(ValueError, match="as a whole or not at all.*layers=.'stock_a', 'stock_b'"):
        getattr(keras_norms, change)(model, **options)
    assert flags(model) == before
    assert keras_norms.freeze_batch_norm(model, pattern="ours", **options) == ["ours"]


def test_rejects():
    model = three()
    for options in (dict(statistics=False, parameters=False), dict(statistics="yes")):
        with pytest.raises(ValueError, match="must be bools, one of them True"):
            keras_norms.freeze_batch_norm(model, **options)
    with pytest.raises(ValueError, match="`pattern` must be a glob, a list of them or None"):
        keras_norms.freeze_batch_norm(model, pattern=3)
    with pytest.raises(ValueError, match="must have a batch normalization layer"):
        keras_norms.freeze_batch_norm(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="must be a Keras model or layer. Received: model=None"):
        keras_norms.freeze_batch_norm(None)


@pytest.mark.parametrize("frozen", ["statistics", True, ["gamma"], None, [["statistics"]]])
def test_layers_reject(frozen):
    with pytest.raises(ValueError, match="'norm': `frozen` must be a list with 'statistics'"):
        keras_norms.BatchNormalization(frozen=frozen, name="norm")
