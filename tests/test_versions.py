"""Versions that keras_norms cannot use are refused with what to install; others are told of."""

import importlib.util
import sys

import pytest
import tensorflow as tf

from keras_norms import keras_api
from keras_norms.cli import doctor, main


def imported_again():
    """Runs keras_api.py once more, as an import in a process of its own does."""
    spec = importlib.util.spec_from_file_location("keras_api_again", keras_api.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_an_older_tensorflow_is_refused(monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.14.1")
    with pytest.raises(ImportError, match=r"needs TensorFlow 2.15 or newer. Received: .* 2.14.1"):
        imported_again()


@pytest.mark.keras_3
@pytest.mark.parametrize("version, is_refused", [("3.9.2", True), ("3.10.0", False)])
def test_a_keras_without_variables_of_replicas_is_refused(monkeypatch, version, is_refused):
    monkeypatch.setattr(keras_api.keras, "__version__", version)
    if not is_refused:
        imported_again()
        return
    with pytest.raises(ImportError, match=r"needs Keras 3.10 or newer, or Keras 2. .*Keras 3.9.2"):
        imported_again()


def test_doctor_tells_of_a_tensorflow_that_is_not_tested(monkeypatch):
    assert doctor.examine()["tensorflow_is_tested"]
    monkeypatch.setattr(tf, "__version__", "2.99.0")
    found = doctor.examine()
    assert not found["tensorflow_is_tested"]
    assert any("2.15 to 2.21. Received: 2.99.0" in problem for problem in found["problems"])


@pytest.mark.parametrize(
    "name, end", [("tensorflow", "`keras_norms.jax.native_status()` says what runs."), ("rich", "")]
)
def test_a_command_says_which_package_to_install(monkeypatch, capsys, name, end):
    def fails(module):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", fails)
    assert main(["doctor"]) == 1
    expected = f"keras-norms doctor cannot run here. {name} is not installed: `pip install {name}`."
    error = capsys.readouterr().err.removesuffix("\n")
    assert error.startswith(expected) and error.endswith(end)


def test_a_command_that_cannot_be_imported_says_why_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "keras_norms.cli.doctor", None)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith("keras-norms doctor cannot run here. ")
