"""The experiments on texts run small, go on where they were broken off, and refuse bad input."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
WORDS = ["good", "bad", "film", "story", "dull", "fine", "plot", "the"]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{script}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def sentences(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    for seed, (part, count) in enumerate({"train": 130, "dev": 20, "test": 20}.items()):
        lines = [f"{text}\t{int('good' in text)}" for text in sentences(count, seed)]
        (folder / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for seed, (stem, count) in enumerate({"train": 260, "val": 20, "test_2016_flickr": 12}.items()):
        lines = sentences(count, seed)
        (folder / f"{stem}.de").write_text("\n".join(lines) + "\n")
        (folder / f"{stem}.en").write_text("\n".join(line.upper() for line in lines) + "\n")
    return folder


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


def test_text_classification_goes_on_and_reports(labelled, tmp_path):
    """The second call finds the runs of the first and adds what is missing."""
    options = ["--data", labelled, "--sentences", 128, "--epochs", 2, "--seeds", 1]
    options += ["--orders", "pre", "--out", tmp_path]
    for methods in (["BN"], ["BN", "RBN", "LN"]):
        result = run("text_classification", *options, "--methods", *methods)
        assert result.returncode == 0, result.stderr[-2000:]
    assert "pre BN 1:" not in result.stdout and "pre RBN 1:" in result.stdout
    rows = ["Pre-Norm | LN", "Pre-Norm | BN", "Pre-Norm | RBN"]
    for key, found in check_report(tmp_path, "text_classification", rows).items():
        assert len(found["test_accuracy"]) == 2 and 0 <= found["test_accuracy"][0] <= 1
        assert ("final_tid_mean" in found) == ("LN" not in key)
    assert "### Drift by lost words" in (tmp_path / "text_classification.md").read_text()


def test_translation_trains_and_reports(pairs, tmp_path):
    options = ["--data", pairs, "--pairs", 256, "--epochs", 1, "--seeds", 1, "--orders", "post"]
    result = run("translation", *options, "--methods", "RBN", "--out", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    (found,) = check_report(tmp_path, "translation", ["Post-Norm | RBN"]).values()
    assert 0 <= found["bleu"] <= 100 and found["final_tid_variance"] > 0
    path = tmp_path / "translation.md"
    path.write_text(path.read_text() + "\n## Reading\n\nMine.\n")
    assert run("translation", "--report", *options[2:6], "--out", tmp_path).returncode == 0
    assert path.read_text().endswith("## Reading\n\nMine.\n")


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("text_classification", ("--methods", "GN"), "there is no method GN; there are LN, BN"),
        ("text_classification", ("--data", "nowhere"), "there is no file nowhere/train.tsv"),
        ("text_classification", (), "--data must name the folder"),
        ("text_classification", ("--epochs", "0"), "--epochs must be positive"),
        ("translation", ("--orders", "middle"), "there is no order middle"),
        ("translation", ("--pairs", "5"), "--pairs must be at least 128"),
        ("translation", ("--data", "nowhere"), "there is no file nowhere/train.de"),
    ],
)
def test_rejects(script, arguments, message, tmp_path):
    result = run(script, *arguments, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith(f"{script}: ") and "Traceback" not in result.stderr
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "script, name, content, message",
    [
        ("text_classification", "dev.tsv", "no label\n", "line 1 of .*dev.tsv must be a sentence"),
        ("text_classification", "test.tsv", "", "test.tsv is empty"),
        ("translation", "val.en", "one line\n", "must have as many lines"),
    ],
)
def test_rejects_files(script, name, content, message, labelled, pairs, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in (labelled if script == "text_classification" else pairs).iterdir():
        (folder / path.name).write_text(path.read_text())
    (folder / name).write_text(content)
    result = run(script, "--data", folder, "--out", tmp_path / "out")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "out").exists()
