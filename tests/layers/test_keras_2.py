"""Keras 2: files, weight names, `TimeDistributed`, and graphs without eager execution."""

import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from tests import catalog
from tests.conformance import models

pytestmark = pytest.mark.filterwarnings(
    "ignore:You are saving your model as an HDF5 file:UserWarning"
)
on_keras_2 = pytest.mark.skipif(IS_KERAS_3, reason="Keras 3 does this by itself")


@on_keras_2
@pytest.mark.parametrize("name", ["renorm_scheduled", "regularized_scheduled"])
def test_h5_file_of_a_layer_with_a_schedule(name, tmp_path):
    row = catalog.ROWS[name]
    model = models.functional(row.make(name="norm"), row.shape)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert loaded.get_layer("norm").get_config() == model.get_layer("norm").get_config()


def test_a_layer_with_a_schedule_can_be_made_while_a_function_is_traced():
    @tf.function(autograph=False)
    def made():
        keras_norms.BatchRenormalization()

    made()
