"""Every conformance test runs every row of the catalogue, on both implementations."""

import numpy as np
import pytest

from tests import catalog


@pytest.fixture(autouse=True)
def on_both_implementations(implementation):
    del implementation


@pytest.fixture(params=catalog.ROWS.values(), ids=catalog.ROWS)
def row(request):
    return request.param


@pytest.fixture
def batch(row, rng):
    return rng.normal(1.0, 2.0, row.shape).astype(np.float32)
