"""The examples run, and say one sentence about bad input."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.layers.keras_api import keras

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
QUICKSTART = EXAMPLES / "quickstart.py"


def quickstart(*arguments):
    return subprocess.run(
        [sys.executable, QUICKSTART, *map(str, arguments)], capture_output=True, text=True
    )


def test_quickstart_trains_exports_and_serves(tmp_path):
    result = quickstart("--smoke", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr[-2000:]
    # Trained on the compiled library, served by plain TensorFlow: the same within rounding.
    difference = re.search(r"largest difference to the trained model's: (\S+)", result.stdout)
    assert float(difference[1]) < 1e-5
    assert {"per replica", "synchronized"} <= set(re.findall(r"│ (\w+(?: \w+)?)", result.stdout))
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "arrays, message",
    [
        (None, "there is no file"),
        (dict(x_train=np.zeros((8, 8, 8))), "y_train"),
        (
            dict(
                x_train=np.zeros((8, 8, 8)),
                y_train=np.zeros(7, int),
                x_test=np.zeros((8, 8, 8)),
                y_test=np.zeros(8, int),
            ),
            "7",
        ),
    ],
)
def test_quickstart_rejects(arrays, message, tmp_path):
    path = tmp_path / "data.npz"
    if arrays is not None:
        np.savez(path, **arrays)
    result = quickstart("--data", path, "--smoke", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith("quickstart: ") and "Traceback" not in result.stderr
    assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "out").exists()


def streaming(*arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / "streaming.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_streaming_resumes_as_if_it_had_never_stopped(tmp_path):
    """Bit by bit: weights, the optimizer's state, and what was recorded on the way."""
    options = ("--step-at", "400")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for arguments in (
        (*options, "--instances", "1000", "--out", whole),
        (*options, "--instances", "500", "--out", parts),
        ("--instances", "500", "--out", parts, "--resume"),
    ):
        result = streaming(*arguments)
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


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--instances", "0"), "--instances must be positive"),
        (("--resume",), "there is nothing to resume"),
        (("--data", "nothing.npz"), "there is no file nothing.npz"),
    ],
)
def test_streaming_rejects(arguments, message, tmp_path):
    result = streaming(*arguments, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith("streaming: ") and "Traceback" not in result.stderr
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def small_batches(*arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / "small_batches.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Images of noise, as JPEG bytes in an .npz."""
    generator, arrays = np.random.default_rng(1), {}
    for part, count in (("train", 128), ("test", 32)):
        images = generator.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        data = [tf.io.encode_jpeg(image).numpy() for image in images]
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(data), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, data)])
        arrays[f"{part}_labels"] = np.arange(count) % 10
    path = tmp_path_factory.mktemp("jpegs") / "images.npz"
    np.savez(path, **arrays)
    return path


def test_small_batches_trains_goes_on_and_reports(jpegs, tmp_path):
    """The second call finds the runs of the first and adds what is missing."""
    options = ["--data", jpegs, "--images", 128, "--test-images", 32, "--epochs", 2]
    options += ["--seeds", 1, "--out", tmp_path]
    for settings in (["groups-4", "pairs"], ["groups-4", "pairs", "whole"]):
        methods = ["BN", "BRN"] + ["Batchless"] * ("whole" in settings)
        result = small_batches(*options, "--settings", *settings, "--methods", *methods)
        assert result.returncode == 0, result.stderr[-2000:]
    assert "groups-4" not in re.findall(r"^(\S+) \S+ 1: ", result.stdout, re.MULTILINE)
    content = json.loads((tmp_path / "small_batches.json").read_text())
    assert len(content["runs"]) == 7
    for run in content["runs"].values():
        assert len(run["test_accuracy"]) == 2 and 0 <= run["test_accuracy"][0] <= 1
    report = (tmp_path / "small_batches.md").read_text()
    assert "## Protocol" in report and "| groups of 4 | BRN | 1 |" in report
    assert (tmp_path / "small_batches_accuracy.png").stat().st_size > 10_000
    (tmp_path / "small_batches.md").write_text(report + "\n## Reading\n\nMine.\n")
    assert small_batches(*options, "--report").returncode == 0
    assert (tmp_path / "small_batches.md").read_text().endswith("## Reading\n\nMine.\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--settings", "groups-5"), "there is no setting groups-5"),
        (("--images", "100"), "--images must be a positive multiple of 64"),
        (("--momentum", "1.5"), "--momentum must be in [0, 1)"),
        (("--data", "nothing.npz"), "there is no file nothing.npz"),
    ],
)
def test_small_batches_rejects(arguments, message, tmp_path):
    result = small_batches(*arguments, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith("small_batches: ") and "Traceback" not in result.stderr
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
