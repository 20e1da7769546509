"""The example of drift measures, reports, keeps what the author wrote, and rejects bad input."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def drift(*arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / "drift.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Images of one colour each with some noise, as JPEG bytes in an .npz."""
    generator, arrays = np.random.default_rng(1), {}
    for part, count in (("train", 512), ("test", 200)):
        labels = np.arange(count) % 10
        images = 25 * labels[:, None, None, None] + generator.integers(0, 30, (count, 32, 32, 3))
        data = [tf.io.encode_jpeg(image).numpy() for image in images.astype(np.uint8)]
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(data), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, data)])
        arrays[f"{part}_labels"] = labels
    path = tmp_path_factory.mktemp("jpegs") / "images.npz"
    np.savez(path, **arrays)
    return path


def test_drift_measures_and_reports(jpegs, tmp_path):
    options = ["--data", jpegs, "--images", 256, "--test-images", 200, "--epochs", 1]
    options += ["--channels", 2, "--stream", 10, "--seeds", 1]
    result = drift(*options, "--out", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads((tmp_path / "drift.json").read_text())
    assert found["clean"]["channels"] == 336
    assert [one["rank_in_layer"] for one in found["scaled"]] == [1, 1]
    for cases in found["corrupted"].values():
        assert len(cases) == 5 and cases[-1]["average"] > found["clean"]["average"]
    runs = {(run["mode"], run["stream"]): run["accuracy"] for run in found["poisoned"]}
    assert len(runs) == 10
    for accuracies in runs.values():
        assert accuracies[0] == [0, found["clean"]["accuracy"]] and accuracies[-1][0] == 10
    for name in ("drift_report", "drift_severity", "drift_poisoning"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    report = (tmp_path / "drift.md").read_text()
    assert "## Protocol" in report and "| contrast | 5 |" in report and "{" not in report
    (tmp_path / "drift.md").write_text(report + "\n## Reading\n\nMine.\n")
    assert drift("--report", "--out", tmp_path).returncode == 0
    assert (tmp_path / "drift.md").read_text() == report + "\n## Reading\n\nMine.\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--images", "100"), "--images must be a positive multiple of 64"),
        (("--test-images", "201"), "--test-images must be even and at least 200"),
        (("--data", "nothing.npz"), "there is no file nothing.npz"),
        (("--report",), "to make a report of"),
    ],
)
def test_drift_rejects(arguments, message, tmp_path):
    result = drift(*arguments, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith("drift: ") and "Traceback" not in result.stderr
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
