"""The stream of single images can be stopped and resumed as if it had never stopped."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from experiments.streaming import __main__ as streaming

pytestmark = pytest.mark.main_leg


def test_resumes_as_if_it_had_never_stopped(tmp_path, monkeypatch, capsys):
    """Bit by bit: weights, the optimizer's state, and the record."""
    monkeypatch.setattr(streaming, "PART", 150)
    options = ("--step-at", "120")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for arguments in (
        (*options, "--instances", "300", "--out", whole),
        (*options, "--instances", "150", "--out", parts),
        ("--instances", "150", "--out", parts, "--resume"),
    ):
        monkeypatch.setattr(sys, "argv", ["streaming", *map(str, arguments)])
        assert streaming.main() == 0
    assert "images to return" in capsys.readouterr().out
    assert (parts / "second_moments.png").stat().st_size > 10_000
    straight, resumed = (
        tf.keras.models.load_model(folder / "stream.keras") for folder in (whole, parts)
    )
    for optimizer in (straight.optimizer, resumed.optimizer):
        assert int(optimizer.iterations) == 300
    states = [[*model.weights, *values(model.optimizer.variables)] for model in (straight, resumed)]
    assert len(states[0]) == len(states[1]) > 30
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(*(np.asarray(tf.convert_to_tensor(v)) for v in (one, other)))
    records = [json.loads((folder / "record.json").read_text()) for folder in (whole, parts)]
    assert records[0]["moments"] == records[1]["moments"]


def values(variables):
    return variables() if callable(variables) else variables
