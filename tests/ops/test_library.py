"""Finding the compiled library: what fits is loaded once, what does not is refused with reasons.

The libraries here are files that say what they were built for; only opening them is imitated.
"""

import os
import threading

import pytest
import tensorflow as tf

import keras_norms
from keras_norms.ops import library
from tests.ops.libraries import Operations, empty_places, imitate_opening, put

pytestmark = [
    pytest.mark.each_tensorflow,
    # Of every library that is refused; looked at in one test.
    pytest.mark.filterwarnings("ignore:keras_norms runs on plain:UserWarning"),
]

MINOR = ".".join(tf.__version__.split(".")[:2])
REBUILD = "Rebuild it with `keras-norms build`."


@pytest.fixture
def places(monkeypatch, tmp_path):
    return empty_places(monkeypatch, tmp_path)


@pytest.fixture
def opened(monkeypatch):
    return imitate_opening(monkeypatch)


def test_without_a_library_the_reason_is_given(places):
    found = library.load()
    assert found.ops is None and library.ops() is None
    assert found.reason == ("The compiled library is not built. Build it with `keras-norms build`.")


def test_the_package_is_searched_before_the_cache(places, opened):
    package, cache = places
    put(cache)
    cpu, _ = put(package)
    assert library.ops() == str(cpu)
    assert library.load().devices == ("CPU",)


def test_the_cache_serves_where_the_package_has_none_that_fits(places, opened):
    package, cache = places
    put(package, keras_norms="0.0.0")
    cpu, _ = put(cache)
    assert library.ops() == str(cpu)
    assert str(cache) in library.load().reason


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(tensorflow="2.14.0"), f"TensorFlow 2.14, and {MINOR} is installed"),
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


def test_libraries_for_other_versions_tell_why_there_is_none(places, opened):
    for version in ("2.14.0", "2.13.1"):
        put(places[0].parent / f"tensorflow-{version[:4]}", tensorflow=version)
    found = library.load()
    assert found.ops is None and found.is_refused and not opened
    assert found.reason == (
        "The compiled libraries that are here are for TensorFlow 2.13, 2.14, and "
        f"{tf.__version__} is installed. Build one with `keras-norms build`."
    )


def test_one_for_jax_is_none_for_tensorflow(places, opened):
    put(places[0].parent / "jax")
    assert library.load().reason.startswith("The compiled library is not built.") and not opened


def test_one_for_another_patch_of_the_same_minor_version_is_loaded(places, opened):
    put(places[0], tensorflow=f"{MINOR}.77")
    assert library.load().ops == opened[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tensorflow": 1}'])
def test_an_unreadable_description_is_refused(places, opened, text):
    places[0].mkdir(parents=True)
    (places[0] / "_native.json").write_text(text)
    found = library.load()
    assert found.ops is None and not opened
    assert "no readable _native.json" in found.reason and found.reason.endswith(REBUILD)


@pytest.mark.parametrize(
    "changes",
    [
        dict(xla=None),
        dict(cuda_runtime="13"),
        dict(files=3),
        dict(files={"_native.so": "ab\0cd"}),
        dict(files={"_native.so": "../../other"}),
        dict(sources=None),
    ],
)
def test_an_incomplete_description_is_refused(places, opened, changes):
    put(places[0], **changes)
    found = library.load()
    assert found.is_refused and not opened
    assert f"{next(iter(changes))!r} is missing or of a wrong type." in found.reason


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "is incomplete: _native-{} is missing."),
        (b"", "is damaged: _native-{} is not what was built."),
        (b"not a librarz", "is damaged: _native-{} is not what was built."),
        (b"not a library", "cannot be loaded: _native-{}: "),
    ],
    ids=["missing", "cut_off", "changed", "no_library"],
)
def test_a_broken_file_is_refused(places, content, reason):
    """One that was cut off above all: mapping it ends the process."""
    path, _ = put(places[0])
    path.unlink() if content is None else path.write_bytes(content)
    found = library.load()
    assert found.ops is None and found.is_refused
    assert reason.format(path.name.partition("-")[2]) in found.reason
    assert str(places[0]) in found.reason and found.reason.endswith(REBUILD)


def test_one_that_is_refused_is_warned_of_once(places):
    path, _ = put(places[0])
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="runs on plain TensorFlow. .* is damaged: ") as caught:
        library.load()
        library.load()
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
def test_one_that_is_not_there_is_not(places):
    assert library.load().ops is None


def test_a_library_of_something_else_is_refused(places, monkeypatch):
    monkeypatch.setattr(tf, "load_op_library", lambda path: path)
    put(places[0])
    assert "has none of its operations" in library.load().reason


def test_a_cache_that_cannot_be_a_path(places, monkeypatch):
    monkeypatch.setenv("KERAS_NORMS_CACHE", "/" + "a" * 300)
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
    paths = put(places[0], cuda_runtime=13000, cuda_architectures=["80", "90"])
    found = library.load()
    assert found.devices == devices and note in found.reason
    assert opened == list(map(str, paths[: len(devices)]))


def test_a_broken_cuda_library_leaves_the_cpu(places, monkeypatch):
    def load_op_library(path):
        if "_cuda" in os.path.basename(os.path.realpath(path)):
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
    name = f"keras_norms/{keras_norms.__version__}-tensorflow-{MINOR}"
    monkeypatch.setenv("HOME", "/home")
    for variable in ("XDG_CACHE_HOME", "KERAS_NORMS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    assert str(library.places().cache()) == f"/home/.cache/{name}"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(library.places().cache()) == f"/xdg/{name}"
    monkeypatch.setenv("KERAS_NORMS_CACHE", "/ours")
    assert str(library.places().cache()) == f"/ours/{name}"


def test_relative_paths_of_a_cache_are_ignored(monkeypatch, tmp_path):
    """The XDG specification demands it; the working directory may be anybody's."""
    default = library.places().cache()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("KERAS_NORMS_CACHE", "")
    assert library.places().cache().parts[-2:] == default.parts[-2:]
    assert tmp_path not in library.places().cache().parents
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("KERAS_NORMS_CACHE", "./cache")
    with pytest.warns(UserWarning, match="must be an absolute path; it is ignored.*'./cache'"):
        assert library.places().cache().parts[:2] == ("/", "xdg")
    monkeypatch.setenv("KERAS_NORMS_CACHE", "~/cache")
    monkeypatch.setenv("HOME", "/home")
    assert library.places().cache().parts[:3] == ("/", "home", "cache")
    monkeypatch.setenv("HOME", "here")
    for variable in ("XDG_CACHE_HOME", "KERAS_NORMS_CACHE"):
        monkeypatch.delenv(variable)
    with pytest.raises(FileNotFoundError, match="there is no home folder; set KERAS_NORMS_CACHE"):
        library.places().cache()


def test_the_driver_version_is_zero_or_a_version():
    assert library.driver_version() == 0 or library.driver_version() >= 10000
