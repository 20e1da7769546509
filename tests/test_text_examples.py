"""The experiments on texts run small, go on where they were broken off, and refuse bad input."""

import json
import shutil

import numpy as np
import pytest

from .example_runs import check_rejected, run

WORDS = ["good", "bad", "film", "story", "dull", "fine", "plot", "the"]


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


@pytest.mark.full
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


@pytest.mark.full
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


def with_file(folder, tmp_path, name, content):
    """A copy of the folder in which one file is another."""
    copy = tmp_path / f"with_{name}"
    shutil.copytree(folder, copy)
    (copy / name).write_text(content)
    return copy


@pytest.mark.main_leg
def test_text_classification_rejects(labelled, tmp_path):
    no_label = with_file(labelled, tmp_path, "dev.tsv", "no label\n")
    empty = with_file(labelled, tmp_path, "test.tsv", "")
    latin = with_file(labelled, tmp_path, "train.tsv", "")
    (latin / "train.tsv").write_bytes("naïf\t1\n".encode("latin-1"))
    cases = [
        (("--methods", "GN"), "there is no method GN; there are LN, BN"),
        (("--data", "nowhere"), "there is no file nowhere/train.tsv"),
        ((), "--data must name the folder"),
        (("--epochs", "0"), "--epochs must be positive"),
        (("--sentences", "63"), "--sentences must be at least 64, but is 63"),
        (("--data", labelled), "--sentences 6920 are asked for, but there are 130"),
        (("--data", latin), "train.tsv is not UTF-8"),
        (("--data", labelled, "--seeds", str(2**32)), "a seed must be below 2^32"),
        (("--threads", "99999999999"), "--threads must be from 1 to 1024"),
        (("--data", no_label), f"line 1 of {no_label / 'dev.tsv'} must be a sentence"),
        (("--data", empty), "test.tsv must have at least 2 sentences, but has 0"),
    ]
    check_rejected("text_classification", cases, tmp_path)


@pytest.mark.main_leg
def test_translation_rejects(pairs, tmp_path):
    uneven = with_file(pairs, tmp_path, "val.en", "one line\n")
    cases = [
        (("--orders", "middle"), "there is no order middle"),
        (("--pairs", "5"), "--pairs must be at least 64"),
        (("--seeds", "-1"), "a seed must be at least 0, but one is -1"),
        (("--data", "nowhere"), "there is no file nowhere/train.de"),
        (("--data", uneven), "must have as many lines"),
        (("--data", pairs), "--pairs 29000 are asked for, but there are 260"),
    ]
    check_rejected("translation", cases, tmp_path)
