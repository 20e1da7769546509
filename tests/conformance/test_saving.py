"""Files: what is saved is loaded bit by bit, and training continues where it stopped."""

import numpy as np
import pytest
import tensorflow as tf

from tests import strategies
from tests.conformance import models


def test_keras_file(trained, loaded, batch):
    models.assert_same_weights(loaded, trained)
    np.testing.assert_array_equal(loaded(batch), trained(batch))
    assert loaded.get_layer("norm").get_config() == trained.get_layer("norm").get_config()


def test_training_continues_after_loading(trained, loaded, batch):
    before = trained.get_weights()
    for model in (trained, loaded):
        models.fit(model, batch, steps=2)
    models.assert_same_weights(loaded, trained, rtol=1e-6, atol=1e-7)
    for model in (trained, loaded):
        model.set_weights(before)


def test_weights_file(row, trained, tmp_path):
    trained.save_weights(tmp_path / "model.weights.h5")
    fresh = models.functional(row.make(name="norm"), row.shape)
    fresh.load_weights(tmp_path / "model.weights.h5")
    models.assert_same_weights(fresh, trained)


@pytest.mark.parametrize("replicas", [1, 2])
def test_checkpoint_into_any_number_of_replicas(row, trained, tmp_path, replicas):
    path = tf.train.Checkpoint(model=trained).save(str(tmp_path / "checkpoint"))
    with strategies.mirrored(replicas).scope():
        fresh = models.functional(row.make(name="norm"), row.shape)
        tf.train.Checkpoint(model=fresh).restore(path).assert_existing_objects_matched()
    models.assert_same_weights(fresh, trained)
