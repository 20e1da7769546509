"""The stream of single images can be stopped and resumed as if it had never stopped."""

import json

import numpy as np
import pytest
import tensorflow as tf

from .study_runs import run

pytestmark = pytest.mark.full


def test_resumes_as_if_it_had_never_stopped(tmp_path):
    """Bit by bit: weights, the optimizer's state, and the record."""
    options = ("--step-at", "400")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for arguments in (
        (*options, "--instances", "1000", "--out", whole),
        (*options, "--instances", "500", "--out", parts),
        ("--instances", "500", "--out", parts, "--resume"),
    ):
        result = run("streaming", *arguments)
    assert "images to return" in result.stdout
    assert (parts / "second_moments.png").stat().st_size > 10_000
    straight, resumed = (
        tf.keras.models.load_model(folder / "stream.keras") for folder in (whole, parts)
    )
    for optimizer in (straight.optimizer, resumed.optimizer):
        assert int(optimizer.iterations) == 1000
    states = [[*model.weights, *values(model.optimizer.variables)] for model in (straight, resumed)]
    assert len(states[0]) == len(states[1]) > 30
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(*(np.asarray(tf.convert_to_tensor(v)) for v in (one, other)))
    records = [json.loads((folder / "record.json").read_text()) for folder in (whole, parts)]
    assert records[0]["moments"] == records[1]["moments"]


def values(variables):
    return variables() if callable(variables) else variables
