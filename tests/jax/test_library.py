"""A library is loaded only where it fits and nobody else could have put it there."""

import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import pytest

from keras_norms.compiled import places
from keras_norms.jax import library
from keras_norms.version import __version__
from tests import builds

pytestmark = pytest.mark.main_leg
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's cache, with a library that is intact but not one; nothing in the package."""
    monkeypatch.setenv("KERAS_NORMS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(library, "_found", [])
    monkeypatch.setattr(places, "PACKAGE_FOLDER", tmp_path / "none")
    builds.build(library.places().cache(), "x", lambda line: None, **DESCRIPTION)
    return library.places().cache()


DESCRIPTION = {"keras_norms": __version__, "ffi": "0.3", "sources": ""}


def file_of(folder):
    return next(folder.glob("_native-*.so"))


def remove(folder):
    shutil.rmtree(folder)


def damage(folder):
    file_of(folder).write_bytes(b"damaged")


def lose(folder):
    file_of(folder).unlink()


def open_to_all(folder):
    file_of(folder).chmod(0o666)


def of_another_version(folder):
    builds.build(folder, "y", lambda line: None, **DESCRIPTION | {"keras_norms": "0.0.1"})


@pytest.mark.parametrize(
    "change, reason",
    [
        (remove, "The compiled library is not built. Build it with `keras-norms build --for jax`."),
        (lambda folder: None, "cannot be loaded: _native-"),
        (damage, "Rebuild it with `keras-norms build --for jax`."),
        (lose, "is incomplete: _native-"),
        (open_to_all, "is not loaded: everybody can change"),
        (of_another_version, "was built for keras_norms 0.0.1"),
    ],
    ids=["none", "no_library", "damaged", "incomplete", "open_to_all", "other_version"],
)
def test_says_why_none_is_loaded(folder, change, reason):
    change(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        status = library.native_status()
    assert not status.available
    is_there = change is not remove
    assert [f"keras_norms.jax runs on plain JAX. {status.reason}"] * is_there == [
        str(each.message) for each in caught
    ]
    assert reason in status.reason
    # The build for TensorFlow would be no remedy, and a descriptor no name of a file.
    assert "`keras-norms build`" not in status.reason
    assert "/proc/" not in status.reason


def test_a_switch_turns_it_off(monkeypatch):
    monkeypatch.setenv("KERAS_NORMS_NATIVE", "off")
    assert "switched off by KERAS_NORMS_NATIVE=off" in library.native_status().reason


def run(program):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_without_tensorflow_names_of_keras_say_what_is_missing():
    """Also where `import keras_norms.jax` comes before that of JAX."""
    done = run(
        "import sys; sys.modules['tensorflow'] = None\n"
        "import keras_norms.jax; keras_norms.jax.batch_norm\n"
        "keras_norms.BatchNormalization"
    )
    expected = (
        "ImportError: keras_norms.BatchNormalization needs TensorFlow, which is not installed: "
    )
    assert done.stderr.splitlines()[-1].startswith(expected), done.stderr


def test_names_that_are_not_there_are_attribute_errors():
    done = run(
        "import jax, keras_norms; print(hasattr(keras_norms, '__nothing__'), keras_norms.jax)"
    )
    assert done.stdout.startswith("False <module 'keras_norms.jax'"), done.stderr


@pytest.mark.parametrize(
    "version, is_new_enough", [("0.8.1", False), ("0.8.2", True), ("1.0", True)]
)
def test_a_jax_that_is_too_old_is_refused(version, is_new_enough, monkeypatch):
    import importlib.metadata

    from keras_norms.jax import installed

    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    if is_new_enough:
        installed.check_jax()
    else:
        with pytest.raises(
            ImportError, match="needs jax 0.8.2 or newer. Received: jax 0.8.1. Install"
        ):
            installed.check_jax()
