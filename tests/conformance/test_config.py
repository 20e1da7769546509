"""A layer is its config: equal after a round trip, through JSON, and under its registered name."""

import json

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import keras


def test_config_round_trip(row):
    layer = row.make(
        name="norm",
        gamma_initializer=keras.initializers.Constant(2.0),
        beta_regularizer=keras.regularizers.L2(0.1),
        gamma_constraint=keras.constraints.NonNeg(),
    )
    config = layer.get_config()
    restored = row.layer.from_config(config)
    assert restored.get_config() == config
    for name, value in row.options.items():
        kept = getattr(restored, name)
        if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
            kept, value = kept.get_config(), value.get_config()
        assert kept == value
    assert json.loads(json.dumps(config))["axis"] == config["axis"]


def test_registered_name(row):
    name = f"keras_norms>{row.layer.__name__}"
    assert keras.saving.get_registered_name(row.layer) == name
    assert keras.saving.get_registered_object(name) is row.layer


def test_config_does_not_change_by_building_or_calling(row, batch):
    layer = row.make()
    config = layer.get_config()
    layer(tf.constant(batch), training=True)
    assert layer.get_config() == config


def test_clone_model(trained, batch):
    clone = keras.models.clone_model(trained)
    clone.set_weights(trained.get_weights())
    np.testing.assert_array_equal(clone(batch), trained(batch))


def test_weights_have_the_names_and_order_of_keras(row):
    layer = row.make()
    layer.build(row.shape)
    names = [w.name.split("/")[-1].split(":")[0] for w in layer.weights]
    parameters = ["gamma", "beta"] if row.options.get("scale", True) else []
    parameters.extend(row.trained)
    assert names == [*parameters, *row.state]
    trainable = [True] * len(parameters) + [False] * len(row.state)
    assert [w.trainable for w in layer.weights] == trainable
