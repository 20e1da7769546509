"""Every test here runs on both implementations of the kernels."""

import pytest


@pytest.fixture(autouse=True)
def on_both_implementations(implementation):
    del implementation
