"""Both implementations of the kernels, and float64 where a test asks for it."""

import os

import jax
import pytest

from keras_norms.jax import library


@pytest.fixture
def native():
    """For a test that needs the compiled library, which `make test` does not let it miss."""
    status = library.native_status()
    if not status.available:
        required = os.environ.get("KERAS_NORMS_TEST_NATIVE") == "require"
        (pytest.fail if required else pytest.skip)(status.reason)


@pytest.fixture(params=["native", "plain"])
def implementation(request, monkeypatch):
    """Runs a test on the compiled kernels and on plain JAX."""
    if request.param == "native":
        request.getfixturevalue("native")
    else:
        monkeypatch.setenv("KERAS_NORMS_NATIVE", "0")
    return request.param


@pytest.fixture
def float64():
    """JAX with 64 bits, which it leaves off."""
    with jax.enable_x64(True):
        yield
