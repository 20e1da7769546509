"""Keras 2: files, weight names, `TimeDistributed`, and graphs without eager execution."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from tests import catalog, oracles
from tests.conformance import models

pytestmark = pytest.mark.filterwarnings(
    "ignore:You are saving your model as an HDF5 file:UserWarning"
)
on_keras_2 = pytest.mark.keras_2  # Keras 3 does this by itself.
SHAPE = (3, 4)  # Time and channels.


def sequential(*layers, shape=SHAPE, **options):
    return keras.Sequential([keras.Input(shape), *layers], **options)


@on_keras_2
@pytest.mark.parametrize("name", ["renorm_scheduled", "regularized_scheduled"])
def test_h5_file_of_a_layer_with_a_schedule(name, tmp_path):
    row = catalog.ROWS[name]
    model = models.functional(row.make(name="norm"), row.shape)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert loaded.get_layer("norm").get_config() == model.get_layer("norm").get_config()


@on_keras_2
@pytest.mark.parametrize("name", ["BatchNormalization", "BatchRenormalization"])
def test_layers_in_wrappers_and_inner_models_are_loaded_as_they_were(name, tmp_path):
    """Keras looks for the class name alone there, and would find a stock layer, or none."""
    layer = getattr(keras_norms, name)
    inner = sequential(layer(name="inside"), name="inner")
    steps = keras.layers.TimeDistributed(layer(name="wrapped", momentum=0.8), name="steps")
    model = sequential(layer(name="plain"), inner, steps)
    for suffix in ("h5", "keras"):
        model.save(tmp_path / f"model.{suffix}")
    copies = [
        keras.models.load_model(tmp_path / "model.h5"),
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.model_from_json(model.to_json()),
        keras.models.clone_model(model),
    ]

    def norms(model):
        inner = model.get_layer("inner").get_layer("inside")
        return model.get_layer("plain"), inner, model.get_layer("steps").layer

    for copy in copies:
        for one, other in zip(norms(copy), norms(model), strict=True):
            assert type(one) is layer
            assert one.get_config() == other.get_config()


def test_each_keras_finds_layers_in_files_of_keras_2():
    layer = keras_norms.SyncBatchNormalization(name="norm")
    name = "keras_norms>SyncBatchNormalization"
    plain = {"class_name": "SyncBatchNormalization", "registered_name": name}
    wrapped = {"class_name": name}
    for names in (plain, wrapped):
        made = keras.saving.deserialize_keras_object({**names, "config": layer.get_config()})
        assert type(made) is keras_norms.SyncBatchNormalization
    if not IS_KERAS_3:
        steps = keras.layers.TimeDistributed(layer)
        for names, config in (
            (plain, keras.saving.serialize_keras_object(layer)),
            (wrapped, steps.get_config()["layer"]),
        ):
            assert {key: config[key] for key in names} == names


@on_keras_2
def test_weights_have_the_names_of_stock_layers(tmp_path):
    """However a model was made: optimizers exclude weights by these names."""
    names = []
    for layer in (keras_norms.BatchNormalization, keras.layers.BatchNormalization):
        model = sequential(
            layer(name="norm"),
            sequential(layer(name="norm_inside"), name="inner"),
            keras.layers.TimeDistributed(layer(), name="steps"),
        )
        model.save(tmp_path / "model.keras")
        made = (
            model,
            keras.models.load_model(tmp_path / "model.keras"),
            keras.models.model_from_json(model.to_json()),
            keras.models.clone_model(model),
        )
        names.append([[weight.name for weight in one.weights] for one in made])
    ours, stock = names
    assert ours == stock
    assert ours[1][0] == "norm/gamma:0"


@on_keras_2
@pytest.mark.parametrize(
    "layer",
    [
        keras_norms.BatchNormalization,
        keras_norms.RegularizedBatchNormalization,
        keras_norms.BatchlessNormalization,
    ],
)
def test_time_distributed_merges_batch_and_time(layer, rng):
    """As for stock layers, also where the batch size is known, and in classes of users."""

    class Derived(layer):
        pass

    x = rng.normal([[0.0], [2.0], [5.0]], 1.0, (8, *SHAPE)).astype(np.float32)
    is_batchless = layer is keras_norms.BatchlessNormalization
    options = dict(stddev_initializer=keras.initializers.Constant(2.0), momentum=0.5)
    del options["momentum" if is_batchless else "stddev_initializer"]
    wrapped, plain = Derived(**options), layer(**options)
    for one in (keras.layers.TimeDistributed(wrapped), plain):
        model = sequential(one)
        model.compile("sgd", "mse")
        model.fit(x, x, batch_size=len(x), verbose=0)
    for actual, expected in zip(wrapped.weights, plain.weights, strict=True):
        oracles.assert_close(actual, expected, "float32", factor=10.0)


def test_a_layer_with_a_schedule_can_be_made_while_a_function_is_traced():
    @tf.function(autograph=False)
    def made():
        keras_norms.BatchRenormalization()

    made()


WITHOUT_EAGER = """
import numpy as np, tensorflow as tf
import keras_norms
tf.compat.v1.disable_eager_execution()
x = np.ones((8, 4), np.float32)
for name in ("BatchRenormalization", "BatchlessNormalization"):
    norm = getattr(keras_norms, name)(epsilon=0.0, name="norm")
    model = tf.keras.Sequential([tf.keras.Input((4,)), norm])
    model.compile("sgd", "mse")
    assert abs(model.predict(x, verbose=0) - 1.0).max() < 1e-6
    for train in (lambda: model.fit(x, x, verbose=0), lambda: norm(tf.ones((8, 4)), training=True)):
        try:
            train()
        except (tf.errors.InvalidArgumentError, RuntimeError) as error:
            assert f"{name}" in str(error) and "needs eager execution" in str(error), error
            print("raised")
"""


@on_keras_2
@pytest.mark.each_tensorflow
def test_training_without_eager_execution_is_an_error():
    """Nothing would move the statistics then. Inference works."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_EAGER], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["raised"] * 4
