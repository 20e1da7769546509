"""What conformance tests are given: a row of the catalogue, a batch for it, a trained model."""

import numpy as np
import pytest

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
