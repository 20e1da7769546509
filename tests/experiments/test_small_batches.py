"""The study of small batches trains, skips what is finished, and reports."""

import json
import re

import numpy as np
import pytest

from .study_runs import run, save_jpegs

pytestmark = pytest.mark.full


@pytest.fixture
def jpegs(tmp_path):
    """Images of noise."""
    generator = np.random.default_rng(1)
    parts = {
        part: (generator.integers(0, 256, (count, 32, 32, 3)), np.arange(count) % 10)
        for part, count in (("train", 128), ("test", 32))
    }
    return save_jpegs(tmp_path / "images.npz", **parts)


def test_the_second_call_adds_the_missing_runs_and_reports(jpegs, tmp_path):
    options = ["--data", jpegs, "--images", 128, "--test-images", 32, "--epochs", 2]
    options += ["--seeds", 1, "--out", tmp_path]
    for settings in (["groups-4", "pairs"], ["groups-4", "pairs", "whole"]):
        methods = ["BN", "BRN"] + ["Batchless"] * ("whole" in settings)
        result = run("small_batches", *options, "--settings", *settings, "--methods", *methods)
    assert "groups-4" not in re.findall(r"^(\S+) \S+ 1: ", result.stdout, re.MULTILINE)
    content = json.loads((tmp_path / "small_batches.json").read_text())
    assert len(content["runs"]) == 7
    for found in content["runs"].values():
        assert len(found["test_accuracy"]) == 2 and 0 <= found["test_accuracy"][0] <= 1
    report = (tmp_path / "small_batches.md").read_text()
    assert "## Protocol" in report and "| groups of 4 | BRN | 1 |" in report
    assert (tmp_path / "small_batches_accuracy.png").stat().st_size > 10_000
    (tmp_path / "small_batches.md").write_text(report + "\n## Reading\n\nMine.\n")
    run("small_batches", *options, "--report")
    assert (tmp_path / "small_batches.md").read_text().endswith("## Reading\n\nMine.\n")
