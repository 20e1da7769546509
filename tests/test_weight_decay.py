"""What `exclude_from_weight_decay` and the one for statistics leave alone, and refuse."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from tests.test_initialization import branching, states


@pytest.fixture
def x(rng):
    return rng.normal([3.0, -5.0, 0.5], [2.0, 0.1, 7.0], (45, 3)).astype(np.float32)


def test_leaves_the_statistics_alone(x):
    """With a gradient of 0 only the decay moves a weight."""
    model = branching()
    keras_norms.initialize_statistics(model, x, verbose=0)
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    excluded = keras_norms.exclude_statistics_from_weight_decay(optimizer, model)
    assert len(excluded) == 8
    before = states(model)
    zeros = [tf.zeros_like(tf.convert_to_tensor(v)) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    kept = {id(w) for w in excluded}
    for was, weight in zip(before, model.weights, strict=True):
        now = np.asarray(tf.convert_to_tensor(weight))
        if id(weight) in kept:
            np.testing.assert_array_equal(was, now)
        elif np.any(was):
            assert np.any(was != now)


def test_with_further_exclusions(x):
    """Keras forgets earlier ones, so they are said in the same call."""
    model = branching()
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    excluded = keras_norms.exclude_statistics_from_weight_decay(optimizer, model, ["gamma"])
    before = states(model)
    optimizer.build(model.trainable_variables)
    zeros = [tf.zeros_like(tf.convert_to_tensor(v)) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    kept = {id(w) for w in excluded}
    for was, weight in zip(before, model.weights, strict=True):
        is_kept = id(weight) in kept or "gamma" in weight.name
        same = np.array_equal(was, np.asarray(tf.convert_to_tensor(weight)))
        assert same == (is_kept or not np.any(was))


def test_rejects_models_without_statistics():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="plain")
    with pytest.raises(ValueError, match="must have a BatchlessNormalization that is built"):
        keras_norms.exclude_statistics_from_weight_decay(keras.optimizers.AdamW(), model)
    with pytest.raises(ValueError, match="must be one of Keras .* Received: object"):
        keras_norms.exclude_statistics_from_weight_decay(object(), branching())


def test_warns_after_the_optimizer_is_built(x):
    """A traced step does not change; Keras 2 refuses, Keras 3 does not."""
    model = branching()
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    if IS_KERAS_3:
        with pytest.warns(UserWarning, match="Call `model.compile` with it again"):
            keras_norms.exclude_statistics_from_weight_decay(optimizer, model)
    else:
        with pytest.raises(ValueError, match="must not be built yet"):
            keras_norms.exclude_statistics_from_weight_decay(optimizer, model)


@pytest.mark.parametrize("model", [None, 3, "model"])
def test_rejects_other_objects_than_models(model):
    with pytest.raises(ValueError, match="from_weight_decay: `model` must be a Keras model"):
        keras_norms.exclude_statistics_from_weight_decay(keras.optimizers.AdamW(), model)


def normalizing():
    """Normalization layers of all kinds, some of them in layers and models inside."""
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.TimeDistributed(keras_norms.BatchRenormalization(name="renorm")),
            layers.BatchNormalization(name="stock", trainable=False),
        ],
        name="inner",
    )
    return keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.Dense(3, name="dense", bias_initializer="ones"),
            inner,
            keras_norms.BatchlessNormalization(name="batchless", mean_initializer="ones"),
            keras_norms.BatchNormalization(center=False, name="batch"),
            layers.GroupNormalization(3, name="group"),
            layers.LayerNormalization(name="layer"),
        ]
    )


EXCLUDED = 2 + 2 + 4 + 1 + 2 + 2


def step_without_gradient(optimizer, model):
    """Trains with a gradient of 0, and returns the weights that the decay has moved."""
    before = states(model)
    zeros = [tf.zeros_like(tf.convert_to_tensor(v)) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    return [
        weight
        for was, weight in zip(before, model.weights, strict=True)
        if not np.array_equal(was, np.asarray(tf.convert_to_tensor(weight)))
    ]


def test_only_the_dense_layer_decays():
    model = normalizing()
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    excluded = keras_norms.exclude_from_weight_decay(optimizer, model)
    assert len(excluded) == len({id(weight) for weight in excluded}) == EXCLUDED
    model.trainable = True  # A layer that was frozen is excluded, too.
    moved = step_without_gradient(optimizer, model)
    assert [id(w) for w in moved] == [id(w) for w in model.get_layer("dense").weights]


def test_the_optimizer_inside_a_loss_scale_optimizer():
    model = normalizing()
    inner = keras.optimizers.SGD(1e-2, weight_decay=0.5)
    keras_norms.exclude_from_weight_decay(
        keras.mixed_precision.LossScaleOptimizer(inner), model, ["bias"]
    )
    moved = step_without_gradient(inner, model)
    assert [id(w) for w in moved] == [id(model.get_layer("dense").kernel)]


@pytest.mark.addons
def test_optimizers_of_tensorflow_addons():
    import tensorflow_addons as tfa

    model = normalizing()
    optimizer = tfa.optimizers.AdamW(0.5, exclude_from_weight_decay=["kernel"], learning_rate=1e-2)
    keras_norms.exclude_from_weight_decay(optimizer, model)
    optimizer = tfa.optimizers.AdamW.from_config(optimizer.get_config())
    moved = step_without_gradient(optimizer, model)
    assert [id(w) for w in moved] == [id(model.get_layer("dense").bias)]


def test_rejects_models_without_normalization():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="plain")
    with pytest.raises(ValueError, match="must have a normalization layer .*'plain' without"):
        keras_norms.exclude_from_weight_decay(keras.optimizers.AdamW(), model)


@pytest.mark.parametrize("names", ["bias", [1]])
def test_names_must_be_a_list_of_strings(names):
    model = keras.Sequential([keras.Input((3,)), keras_norms.BatchNormalization()])
    optimizer = keras.optimizers.SGD()
    with pytest.raises(ValueError, match="`var_names` must be a list of strings"):
        keras_norms.exclude_from_weight_decay(optimizer, model, names)
