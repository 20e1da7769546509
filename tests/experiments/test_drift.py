"""The study of drift measures, reports, and keeps what the author wrote."""

import json

import numpy as np
import pytest

from .study_runs import run, save_jpegs

pytestmark = pytest.mark.full


@pytest.fixture
def jpegs(tmp_path):
    """Images of one colour each with some noise."""
    generator, parts = np.random.default_rng(1), {}
    for part, count in (("train", 512), ("test", 200)):
        labels = np.arange(count) % 10
        noise = generator.integers(0, 30, (count, 32, 32, 3))
        parts[part] = 25 * labels[:, None, None, None] + noise, labels
    return save_jpegs(tmp_path / "images.npz", **parts)


def test_drift_measures_and_reports(jpegs, tmp_path):
    options = ["--data", jpegs, "--images", 256, "--test-images", 200, "--epochs", 1]
    options += ["--channels", 2, "--stream", 10, "--seeds", 1]
    run("drift", *options, "--out", tmp_path)
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
    run("drift", "--report", "--out", tmp_path)
    assert (tmp_path / "drift.md").read_text() == report + "\n## Reading\n\nMine.\n"
