"""What conformance tests are given: a row of the catalogue, a batch for it, a trained model."""

import numpy as np
import pytest

from keras_norms.keras_api import keras
from tests.conformance import models, rows


@pytest.fixture(scope="session", params=rows.EVERY_ROW)
def row(request):
    return request.param


@pytest.fixture(scope="session")
def batch(row):
    return np.random.default_rng(20).normal(1.0, 2.0, row.shape).astype(np.float32)


@pytest.fixture(scope="session")
def trained(row, batch):
    """A model after some steps of training, for tests that only read it."""
    return models.trained(row, batch)


@pytest.fixture(scope="session")
def loaded(trained, tmp_path_factory):
    """The same model, from a file."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    trained.save(path)
    return keras.models.load_model(path)
