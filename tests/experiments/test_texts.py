"""The studies on texts train, skip what is finished, and report."""

import json

import pytest

from .study_runs import run, save_labelled, save_pairs

pytestmark = pytest.mark.full


def check_report(folder, name, rows):
    content = json.loads((folder / f"{name}.json").read_text())
    content["runs"].pop("drift", None)
    assert len(content["runs"]) == len(rows)
    report = (folder / f"{name}.md").read_text()
    assert "## Protocol" in report and "{" not in report
    for row in rows:
        assert f"| {row} | 1 |" in report
    for kind in ("curves", "tid"):
        assert (folder / f"{name}_{kind}.png").stat().st_size > 10_000
    return content["runs"]


def test_text_classification_adds_the_missing_runs_and_reports(tmp_path):
    options = ["--data", save_labelled(tmp_path / "data"), "--sentences", 128, "--epochs", 2]
    options += ["--seeds", 1, "--orders", "pre", "--out", tmp_path]
    for methods in (["BN"], ["BN", "RBN", "LN"]):
        result = run("text_classification", *options, "--methods", *methods)
    assert "pre BN 1:" not in result.stdout and "pre RBN 1:" in result.stdout
    rows = ["Pre-Norm | LN", "Pre-Norm | BN", "Pre-Norm | RBN"]
    for key, found in check_report(tmp_path, "text_classification", rows).items():
        assert len(found["test_accuracy"]) == 2 and 0 <= found["test_accuracy"][0] <= 1
        assert ("final_tid_mean" in found) == ("LN" not in key)
    assert "### Drift by lost words" in (tmp_path / "text_classification.md").read_text()


def test_translation_trains_and_reports(tmp_path):
    size = ["--pairs", 256, "--epochs", 1, "--out", tmp_path]
    options = ["--data", save_pairs(tmp_path / "data"), "--seeds", 1, "--orders", "post", *size]
    run("translation", *options, "--methods", "RBN")
    (found,) = check_report(tmp_path, "translation", ["Post-Norm | RBN"]).values()
    assert 0 <= found["bleu"] <= 100 and found["final_tid_variance"] > 0
    path = tmp_path / "translation.md"
    path.write_text(path.read_text() + "\n## Reading\n\nMine.\n")
    run("translation", "--report", *size)
    assert path.read_text().endswith("## Reading\n\nMine.\n")
