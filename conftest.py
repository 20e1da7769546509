"""Test session: four logical CPU devices, set up before TensorFlow initializes."""

import gc
import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import tensorflow as tf

pytest_plugins = ["tests.selection"]
# Tests of packages that some legs do without.
OPTIONAL = {
    "tests/test_addons.py": "tensorflow_addons",
    "tests/ops/test_jax.py": "jax",
    "tests/jax": "jax",
    "tests/test_site.py": "sphinx",
    "tests/test_notebook.py": "nbclient",
}
collect_ignore = [path for path, name in OPTIONAL.items() if not importlib.util.find_spec(name)]
REPLICAS = 4
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * REPLICAS
)


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    """What docstring examples may use without importing it."""
    import keras_norms
    from keras_norms.keras_api import keras

    doctest_namespace.update(tf=tf, np=np, keras=keras, keras_norms=keras_norms)
    if importlib.util.find_spec("jax"):
        import jax.numpy as jnp

        import keras_norms.jax

        doctest_namespace.update(jnp=jnp)


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture(autouse=True)
def seeds():
    tf.random.set_seed(20)


@pytest.fixture
def native():
    """For a test that needs the compiled library, which `make test` does not let it miss."""
    import keras_norms

    status = keras_norms.native_status()
    if not status.available:
        required = os.environ.get("KERAS_NORMS_TEST_NATIVE") == "require"
        (pytest.fail if required else pytest.skip)(status.reason)
    return status


@pytest.fixture(
    params=["native", pytest.param("reference", marks=pytest.mark.each_tensorflow)],
)
def implementation(request):
    """Runs a test on both implementations, in all threads: replicas have threads of their own."""
    import keras_norms

    if request.param == "native":
        request.getfixturevalue("native")
    keras_norms.set_implementation(request.param)
    yield request.param
    keras_norms.set_implementation("auto")


def pytest_collection_finish(session):
    """Modules and tests stay to the end: the garbage collector need not search them each time."""
    gc.collect()
    gc.freeze()
