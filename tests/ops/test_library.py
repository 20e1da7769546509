"""Finding the compiled library: what fits is loaded once, what does not is refused with reasons.

The libraries here are files that say what they were built for; only opening them is imitated.
"""

import json
import threading

import pytest
import tensorflow as tf

import keras_norms
from keras_norms.ops import library

pytestmark = pytest.mark.each_tensorflow

FITTING = {
    "tensorflow": tf.__version__,
    "keras_norms": keras_norms.__version__,
    "xla": "hlo",
    "cuda_runtime": None,
    "cuda_architectures": [],
    "sources": "0123",
    "bytes": {"_native.so": 13},
}
REBUILD = "Rebuild it with `keras-norms build`."


@pytest.fixture
def places(monkeypatch, tmp_path):
    """Nothing loaded, and no library anywhere; returns where it is looked for."""
    monkeypatch.setattr(library, "_loaded", [])
    monkeypatch.setattr(library, "PACKAGE_FOLDER", tmp_path / "package")
    monkeypatch.setenv("KERAS_NORMS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "driver_version", lambda: 0)
    return library.package_folder(), library.cache_folder()


@pytest.fixture
def opened(monkeypatch):
    """What was loaded; loading gives the path in place of the operations."""
    paths = []

    def load_op_library(path):
        paths.append(path)
        return Operations(path)

    monkeypatch.setattr(tf, "load_op_library", load_op_library)
    return paths


class Operations(str):
    keras_norms_moments = keras_norms_sums = keras_norms_blend = None


def put(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "_native.json").write_text(json.dumps(FITTING | changes))


def test_none_is_there(places):
    found = library.load()
    assert found.ops is None and library.ops() is None
    assert found.reason == ("The compiled library is not built. Build it with `keras-norms build`.")


def test_the_one_beside_the_package_goes_before_the_cache(places, opened):
    package, cache = places
    put(cache)
    put(package)
    assert library.ops() == str(package / "_native.so")
    assert library.load().devices == ("CPU",)


def test_the_cache_serves_where_the_package_has_none_that_fits(places, opened):
    package, cache = places
    put(package, keras_norms="0.0.0")
    put(cache)
    assert library.ops() == str(cache / "_native.so")
    assert str(cache) in library.load().reason


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(tensorflow="2.14.0"), f"TensorFlow 2.14.0, and {tf.__version__} is installed"),
        (dict(keras_norms="0.0.0"), "keras_norms 0.0.0, and .* is installed"),
    ],
)
@pytest.mark.parametrize("place", [0, 1], ids=["package", "cache"])
def test_one_for_other_versions_is_refused_and_never_opened(places, opened, place, change, message):
    put(places[place], **change)
    found = library.load()
    assert found.ops is None and not opened
    assert message.split(" is ")[0].split(",")[0] in found.reason
    assert str(places[place]) in found.reason and found.reason.endswith(REBUILD)


def test_one_in_the_folder_of_another_version_tells_why_there_is_none(places, opened):
    put(library.PACKAGE_FOLDER / "tensorflow-2.14.0", tensorflow="2.14.0")
    found = library.load()
    assert found.ops is None and not opened
    assert f"was built for TensorFlow 2.14.0, and {tf.__version__} is installed." in found.reason


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tensorflow": 1}'])
def test_an_unreadable_description_is_refused(places, opened, text):
    places[0].mkdir(parents=True)
    (places[0] / "_native.json").write_text(text)
    found = library.load()
    assert found.ops is None and not opened
    assert "no readable _native.json" in found.reason and found.reason.endswith(REBUILD)


@pytest.mark.parametrize(
    "changes", [dict(xla=None), dict(cuda_runtime="13"), dict(bytes=3), dict(sources=None)]
)
def test_an_incomplete_description_is_refused(places, opened, changes):
    put(places[0], **changes)
    found = library.load()
    assert found.is_refused and not opened
    assert f"{next(iter(changes))!r} is missing or of a wrong type." in found.reason


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "cannot be loaded"),
        (b"", "is damaged: _native.so has 0 bytes, not 13."),
        (b"not a", "is damaged: _native.so has 5 bytes, not 13."),
        (b"not a library", "cannot be loaded"),
    ],
)
def test_a_broken_file_is_refused(places, content, reason):
    """One that was cut off above all: mapping it ends the process."""
    put(places[0])
    if content is not None:
        (places[0] / "_native.so").write_bytes(content)
    found = library.load()
    assert found.ops is None and found.is_refused
    assert reason in found.reason and found.reason.endswith(REBUILD)


def test_a_library_of_something_else_is_refused(places, monkeypatch):
    monkeypatch.setattr(tf, "load_op_library", lambda path: path)
    put(places[0])
    assert "has none of its operations" in library.load().reason


def test_a_cache_that_cannot_be_a_path(places, monkeypatch):
    monkeypatch.setenv("KERAS_NORMS_CACHE", "a" * 300)
    assert "cannot be looked for" in library.load().reason


@pytest.mark.parametrize("name, value", [("CPU", "avx2"), ("XLA", "off")])
def test_switches_that_the_library_would_ignore_are_named(places, opened, monkeypatch, name, value):
    put(places[0])
    monkeypatch.setenv(f"KERAS_NORMS_{name}", value)
    with pytest.warns(UserWarning, match=f"KERAS_NORMS_{name} must be one of.*'{value}'"):
        library.load()


@pytest.mark.parametrize(
    "driver, devices, note",
    [
        (0, ("CPU",), "need a driver for CUDA 13.0, which is not there"),
        (12040, ("CPU",), "need a driver for CUDA 13.0, which is for CUDA 12.4"),
        (13000, ("CPU", "GPU"), ""),
        (13010, ("CPU", "GPU"), ""),
    ],
)
def test_gpu_kernels_are_loaded_where_the_driver_runs_them(
    places, opened, monkeypatch, driver, devices, note
):
    monkeypatch.setattr(library, "driver_version", lambda: driver)
    put(places[0], cuda_runtime=13000, cuda_architectures=["80", "90"])
    found = library.load()
    assert found.devices == devices and note in found.reason
    names = ["_native.so", "_native_cuda.so"][: len(devices)]
    assert opened == [str(places[0] / name) for name in names]


def test_a_broken_cuda_library_leaves_the_cpu(places, monkeypatch):
    def load_op_library(path):
        if path.endswith("_cuda.so"):
            raise tf.errors.NotFoundError(None, None, f"{path}: undefined symbol: x\nmore")
        return Operations(path)

    monkeypatch.setattr(tf, "load_op_library", load_op_library)
    monkeypatch.setattr(library, "driver_version", lambda: 13000)
    put(places[0], cuda_runtime=13000)
    found = library.load()
    assert found.devices == ("CPU",) and "undefined symbol: x." in found.reason


def test_it_is_loaded_once_by_many_threads(places, opened):
    put(places[0])
    start = threading.Barrier(8)

    def first_use():
        start.wait()
        library.load()

    threads = [threading.Thread(target=first_use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


def test_where_the_cache_is(monkeypatch):
    name = f"keras_norms/{keras_norms.__version__}-tensorflow-{tf.__version__}"
    monkeypatch.setenv("HOME", "/home")
    for variable in ("XDG_CACHE_HOME", "KERAS_NORMS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    assert str(library.cache_folder()) == f"/home/.cache/{name}"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(library.cache_folder()) == f"/xdg/{name}"
    monkeypatch.setenv("KERAS_NORMS_CACHE", "/ours")
    assert str(library.cache_folder()) == f"/ours/{name}"


def test_the_driver_version_is_zero_or_a_version():
    assert library.driver_version() == 0 or library.driver_version() >= 10000
