"""The examples run, and say one sentence about bad input."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.keras_api import keras

from .example_runs import check_rejected, run, save_jpegs


def test_quickstart_trains_exports_and_serves(tmp_path):
    result = run("quickstart", "--smoke", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr[-2000:]
    # Trained on the compiled library, served by plain TensorFlow: the same within rounding.
    difference = re.search(r"largest difference to the trained model's: (\S+)", result.stdout)
    assert float(difference[1]) < 1e-5
    assert {"per replica", "synchronized"} <= set(re.findall(r"│ (\w+(?: \w+)?)", result.stdout))
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000


@pytest.mark.main_leg
def test_quickstart_rejects(tmp_path):
    images, labels = np.zeros((8, 8, 8)), np.zeros(8, int)
    files = {
        "incomplete": dict(x_train=images),
        "uneven": dict(x_train=images, y_train=labels[:7], x_test=images, y_test=labels),
    }
    for name, arrays in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    cases = [
        (("--data", tmp_path / f"{name}.npz", "--smoke"), message)
        for name, message in {
            "none": "there is no file",
            "incomplete": "has no array y_train, x_test, y_test",
            "uneven": "a label for each of 8 images, but has shape (7,)",
        }.items()
    ]
    check_rejected("quickstart", cases, tmp_path)


@pytest.mark.main_leg
def test_streaming_resumes_as_if_it_had_never_stopped(tmp_path):
    """Bit by bit: weights, the optimizer's state, and what was recorded on the way."""
    options = ("--step-at", "400")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for arguments in (
        (*options, "--instances", "1000", "--out", whole),
        (*options, "--instances", "500", "--out", parts),
        ("--instances", "500", "--out", parts, "--resume"),
    ):
        result = run("streaming", *arguments)
        assert result.returncode == 0, result.stderr[-2000:]
    assert "images to return" in result.stdout
    assert (parts / "second_moments.png").stat().st_size > 10_000
    straight, resumed = (
        keras.models.load_model(folder / "stream.keras") for folder in (whole, parts)
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


@pytest.mark.main_leg
def test_streaming_rejects(tmp_path):
    cases = [
        (("--instances", "0"), "--instances must be positive"),
        (("--resume",), "there is nothing to resume"),
        (("--data", "nothing.npz"), "there is no file nothing.npz"),
    ]
    check_rejected("streaming", cases, tmp_path)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Images of noise."""
    generator = np.random.default_rng(1)
    parts = {
        part: (generator.integers(0, 256, (count, 32, 32, 3)), np.arange(count) % 10)
        for part, count in (("train", 128), ("test", 32))
    }
    return save_jpegs(tmp_path_factory.mktemp("jpegs") / "images.npz", **parts)


@pytest.mark.full
def test_small_batches_trains_goes_on_and_reports(jpegs, tmp_path):
    """The second call finds the runs of the first and adds what is missing."""
    options = ["--data", jpegs, "--images", 128, "--test-images", 32, "--epochs", 2]
    options += ["--seeds", 1, "--out", tmp_path]
    for settings in (["groups-4", "pairs"], ["groups-4", "pairs", "whole"]):
        methods = ["BN", "BRN"] + ["Batchless"] * ("whole" in settings)
        result = run("small_batches", *options, "--settings", *settings, "--methods", *methods)
        assert result.returncode == 0, result.stderr[-2000:]
    assert "groups-4" not in re.findall(r"^(\S+) \S+ 1: ", result.stdout, re.MULTILINE)
    content = json.loads((tmp_path / "small_batches.json").read_text())
    assert len(content["runs"]) == 7
    for found in content["runs"].values():
        assert len(found["test_accuracy"]) == 2 and 0 <= found["test_accuracy"][0] <= 1
    report = (tmp_path / "small_batches.md").read_text()
    assert "## Protocol" in report and "| groups of 4 | BRN | 1 |" in report
    assert (tmp_path / "small_batches_accuracy.png").stat().st_size > 10_000
    (tmp_path / "small_batches.md").write_text(report + "\n## Reading\n\nMine.\n")
    assert run("small_batches", *options, "--report").returncode == 0
    assert (tmp_path / "small_batches.md").read_text().endswith("## Reading\n\nMine.\n")


@pytest.mark.main_leg
def test_small_batches_rejects(tmp_path):
    cases = [
        (("--settings", "groups-5"), "there is no setting groups-5"),
        (("--images", "100"), "--images must be a positive multiple of 64"),
        (("--learning-rate", "nan"), "--learning-rate must be positive and finite"),
        (("--momentum", "1.5"), "--momentum must be in [0, 1)"),
        (("--data", "nothing.npz"), "there is no file nothing.npz"),
    ]
    check_rejected("small_batches", cases, tmp_path)
