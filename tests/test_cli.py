"""`keras-norms doctor`: what it says, as a table and as JSON."""

import json

import pytest

import keras_norms
from keras_norms import cli


def test_doctor_prints_versions_devices_and_the_implementation(capsys):
    assert cli.main(["doctor"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in (keras_norms.__version__, "TensorFlow", "Keras", "NumPy", "CPU", "reference"):
        assert word in text
    assert "not built" in text


def test_doctor_as_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report


def test_rejects_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["diagnose"])
    assert caught.value.code == 2
    assert "invalid choice: 'diagnose'" in capsys.readouterr().err
