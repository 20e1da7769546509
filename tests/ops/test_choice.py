"""The choice of implementation: when the compiled library is used, and what is said if not."""

import threading

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.ops import choice, library, native, reference
from keras_norms.ops.choice import implementation_in_use, kernels_in_use

pytestmark = pytest.mark.each_tensorflow

BUILT = {"tensorflow": "2.0", "cuda_architectures": ["80", "90"], "xla": "ffi"}
ABSENT = library.Library(None, "The compiled library is not built.")
CPU_ONLY = library.Library("ops", "Loaded from here, built without CUDA.", ("CPU",), BUILT)
WITH_CUDA = library.Library("ops", "Loaded from here.", ("CPU", "GPU"), BUILT)


@pytest.fixture
def machine(monkeypatch):
    """Call it with the library that is found and the kinds of device that are visible."""

    def set_up(found, *kinds):
        devices = [tf.config.PhysicalDevice(f"/physical_device:{k}:0", k) for k in kinds]
        monkeypatch.delenv("KERAS_NORMS_NATIVE", raising=False)
        monkeypatch.setattr(library, "load", lambda: found)
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda: devices)

    return set_up


@pytest.mark.parametrize(
    "found, kinds, available, reason",
    [
        (ABSENT, ["CPU"], False, "The compiled library is not built."),
        (CPU_ONLY, ["CPU"], True, "Loaded from here, built without CUDA."),
        (CPU_ONLY, ["CPU", "GPU"], False, "no kernels for GPU. Loaded from here, built without"),
        (WITH_CUDA, ["CPU"], True, "Loaded from here."),
        (WITH_CUDA, ["CPU", "GPU", "GPU"], True, "Loaded from here."),
        (WITH_CUDA, ["CPU", "TPU"], False, "no kernels for TPU."),
    ],
    ids=["absent", "cpu", "cpu_on_gpu", "cuda_on_cpu", "cuda_on_gpu", "tpu"],
)
def test_auto_is_native_where_every_visible_device_has_a_kernel(
    machine, found, kinds, available, reason
):
    machine(found, *kinds)
    status = keras_norms.native_status()
    assert status.available is available and reason in status.reason
    assert implementation_in_use() == ("native" if available else "reference")
    assert kernels_in_use() is (native if available else reference)
    with keras_norms.implementation("reference"):
        assert kernels_in_use() is reference
    if available:
        with keras_norms.implementation("native"):
            assert kernels_in_use() is native
    else:
        with pytest.raises(RuntimeError, match="native implementation cannot be used") as caught:
            keras_norms.set_implementation("native")
        assert reason in str(caught.value)


def test_status_describes_the_library(machine):
    machine(ABSENT, "CPU")
    assert keras_norms.native_status() == (False, ABSENT.reason, (), None, (), None)
    machine(CPU_ONLY, "CPU")
    assert keras_norms.native_status()[2:] == (("CPU",), "2.0", (), "ffi")
    machine(WITH_CUDA, "CPU")
    assert keras_norms.native_status()[2:] == (("CPU", "GPU"), "2.0", ("80", "90"), "ffi")


@pytest.mark.parametrize("switch", ["0", "false", "Off", "no"])
def test_switched_off_it_is_not_loaded(machine, monkeypatch, switch):
    machine(WITH_CUDA, "CPU")
    monkeypatch.setenv("KERAS_NORMS_NATIVE", switch)
    monkeypatch.setattr(library, "load", lambda: pytest.fail("looked for the library"))
    status = keras_norms.native_status()
    assert not status.available and f"switched off by KERAS_NORMS_NATIVE={switch}" in status.reason
    assert kernels_in_use() is reference


@pytest.mark.parametrize("choose", [keras_norms.set_implementation, keras_norms.implementation])
def test_rejects(machine, choose):
    machine(ABSENT, "CPU")

    def call(name):
        choice = choose(name)
        if choice is not None:
            with choice:
                pass

    with pytest.raises(ValueError, match=r"one of 'auto', 'native', 'reference'.*'fast'"):
        call("fast")
    with pytest.raises(RuntimeError, match="native implementation cannot be used.*not built"):
        call("native")
    assert implementation_in_use() == "reference"


def test_a_scoped_choice_ends_with_its_scope_and_stays_in_its_thread():
    seen = []
    with keras_norms.implementation("reference"):
        thread = threading.Thread(target=lambda: seen.append(choice._scope.own_value))
        thread.start()
        thread.join()
        assert choice._scope.own_value == "reference"
    assert seen == [None] and choice._scope.own_value is None


def test_a_scoped_choice_reaches_the_replicas():
    """A strategy traces them in threads of its own."""
    strategy, seen = tf.distribute.MirroredStrategy(["CPU:0"]), []
    with keras_norms.implementation("reference"):
        strategy.run(lambda: seen.append((implementation_in_use(), choice._scope.own_value)))
    assert seen[0][0] == "reference"
    assert choice._scope.value is None


def test_the_choice_acts_when_a_function_is_traced(machine, monkeypatch):
    """A compiled function keeps the kernels that it was traced with."""
    machine(CPU_ONLY, "CPU")
    used = []
    for module in (native, reference):
        name = module.__name__.rpartition(".")[2]
        moments = reference.moments

        def recording(*args, name=name, moments=moments, **options):
            used.append(name)
            return moments(*args, **options)

        monkeypatch.setattr(module, "moments", recording)
    function = tf.function(lambda x: keras_norms.ops.batch_moments(x).mean)
    x = tf.constant([[1.0], [3.0]])
    with keras_norms.implementation("native"):
        np.testing.assert_array_equal(function(x), [2.0])
    with keras_norms.implementation("reference"):
        np.testing.assert_array_equal(function(x), [2.0])
        np.testing.assert_array_equal(keras_norms.ops.batch_moments(x).mean, [2.0])
    assert used == ["native", "reference"]


def test_the_library_is_used(native):
    """Its operations are in the graph, and nothing else is asked for."""
    graph = (
        tf.function(lambda x: keras_norms.ops.batch_moments(x).mean)
        .get_concrete_function(tf.TensorSpec([None, 3]))
        .graph.as_graph_def()
    )
    functions = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    assert "KerasNorms>Moments" in {node.op for node in functions}
    assert native.built_for == tf.__version__
