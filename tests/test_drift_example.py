"""The example of drift measures, reports, keeps what the author wrote, and rejects bad input."""

import json

import numpy as np
import pytest

from .example_runs import check_rejected, run, save_jpegs


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Images of one colour each with some noise."""
    generator, parts = np.random.default_rng(1), {}
    for part, count in (("train", 512), ("test", 200)):
        labels = np.arange(count) % 10
        noise = generator.integers(0, 30, (count, 32, 32, 3))
        parts[part] = 25 * labels[:, None, None, None] + noise, labels
    return save_jpegs(tmp_path_factory.mktemp("jpegs") / "images.npz", **parts)


@pytest.mark.full
def test_drift_measures_and_reports(jpegs, tmp_path):
    options = ["--data", jpegs, "--images", 256, "--test-images", 200, "--epochs", 1]
    options += ["--channels", 2, "--stream", 10, "--seeds", 1]
    result = run("drift", *options, "--out", tmp_path)
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
    assert run("drift", "--report", "--out", tmp_path).returncode == 0
    assert (tmp_path / "drift.md").read_text() == report + "\n## Reading\n\nMine.\n"


@pytest.mark.main_leg
def test_drift_rejects(tmp_path):
    cases = [
        (("--images", "100"), "--images must be a positive multiple of 64"),
        (("--test-images", "201"), "--test-images must be even and at least 200"),
        (("--data", "nothing.npz"), "there is no file nothing.npz"),
        (("--report",), "to make a report of"),
    ]
    check_rejected("drift", cases, tmp_path)
