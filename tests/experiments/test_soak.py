"""A short endurance run: a worker that hangs is noticed, and the training goes on unchanged."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.full


def test_a_training_whose_worker_hangs_ends_as_undisturbed(tmp_path):
    command = [sys.executable, "-m", "experiments.soak", "--rounds", "1", "--seed", "14"]
    command += ["--json", str(tmp_path / "counts.json")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["rounds"] == 1 and counts["starts"] == 2
    assert counts["kill"] == 0 and counts["hang"] == 1
    assert counts["apart"] < 1e-9 and max(s for _, s in counts["seconds"]) < 60
