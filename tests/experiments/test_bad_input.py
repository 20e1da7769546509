"""The studies say one sentence about bad input, return 2, and write nothing."""

import json
import shutil
import subprocess
import sys

import pytest

from .study_runs import ROOT, save_labelled, save_pairs

pytestmark = pytest.mark.main_leg

# TensorFlow takes seconds to load: one process for the calls of all studies.
CALLS = """
import contextlib, importlib, io, json, sys

found = []
for study, *arguments in json.loads(sys.argv[1]):
    main = importlib.import_module(f"experiments.{study}.__main__").main
    sys.argv, errors = [study, *arguments], io.StringIO()
    with contextlib.redirect_stderr(errors):
        found.append([main(), errors.getvalue()])
print(json.dumps(found))
"""


def copy_with(folder, name, content):
    """A copy of the folder in which one file has other content."""
    copy = folder.parent / f"{folder.name}_with_{name}"
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(content)
    return copy


def cases(folder):
    """Study, arguments, and what the sentence must contain."""
    labelled, pairs = save_labelled(folder / "labelled"), save_pairs(folder / "pairs")
    no_label = copy_with(labelled, "dev.tsv", b"no label\n")
    empty = copy_with(labelled, "test.tsv", b"")
    latin = copy_with(labelled, "train.tsv", "naïf\t1\n".encode("latin-1"))
    uneven = copy_with(pairs, "val.en", b"one line\n")
    by_study = {
        "small_batches": [
            (("--settings", "groups-5"), "there is no setting groups-5"),
            (("--images", "100"), "--images must be a positive multiple of 64"),
            (("--learning-rate", "nan"), "--learning-rate must be positive and finite"),
            (("--momentum", "1.5"), "--momentum must be in [0, 1)"),
            (("--data", "nothing.npz"), "there is no file nothing.npz"),
        ],
        "renorm_convergence": [
            (("--settings", "groups-5"), "there is no setting groups-5"),
            (("--held-out", "0"), "--held-out must be positive"),
            (("--test-images", "63"), "--test-images must be at least 64, but is 63"),
            (("--images", "5255"), "--images less --held-out must be at least 256, but is 255"),
            (("--data", "nothing.npz"), "there is no file nothing.npz"),
        ],
        "drift": [
            (("--images", "100"), "--images must be a positive multiple of 64"),
            (("--test-images", "201"), "--test-images must be even and at least 200"),
            (("--data", "nothing.npz"), "there is no file nothing.npz"),
            (("--report",), "to make a report of"),
        ],
        "range_norms": [
            (("--only", "batch,layer"), "there is no contender layer; there are batch, range_"),
            (("--data-sets", "mnist"), "there is no data set mnist"),
            (("--images", "100"), "--images must be a positive multiple of 128"),
            (("--digits-epochs", "0"), "--digits-epochs must be positive"),
            (("--data", "nothing.npz"), "there is no file nothing.npz"),
        ],
        "streaming": [
            (("--instances", "0"), "--instances must be positive"),
            (("--resume",), "there is nothing to resume"),
            (("--data", "nothing.npz"), "there is no file nothing.npz"),
        ],
        "text_classification": [
            (("--methods", "GN"), "there is no method GN; there are LN, BN"),
            (("--data", "nowhere"), "there is no file nowhere/train.tsv"),
            ((), "--data must name the folder"),
            (("--epochs", "0"), "--epochs must be positive"),
            (("--sentences", "63"), "--sentences must be at least 64, but is 63"),
            (("--data", labelled), "--sentences 6920 are asked for, but there are 130"),
            (("--data", latin), "train.tsv is not UTF-8"),
            (("--data", labelled, "--seeds", 2**32), "a seed must be below 2^32"),
            (("--threads", "99999999999"), "--threads must be from 1 to 1024"),
            (("--data", no_label), f"line 1 of {no_label / 'dev.tsv'} must be a sentence"),
            (("--data", empty), "test.tsv must have at least 2 sentences, but has 0"),
        ],
        "translation": [
            (("--orders", "middle"), "there is no order middle"),
            (("--pairs", "5"), "--pairs must be at least 64"),
            (("--seeds", "-1"), "a seed must be at least 0, but one is -1"),
            (("--data", "nowhere"), "there is no file nowhere/train.de"),
            (("--data", uneven), "must have as many lines"),
            (("--data", pairs), "--pairs 29000 are asked for, but there are 260"),
        ],
    }
    return [(study, *case) for study, of_study in by_study.items() for case in of_study]


def test_each_study_says_one_sentence_about_bad_input(tmp_path):
    expected = cases(tmp_path)
    outs = [tmp_path / f"out_{number}" for number in range(len(expected))]
    calls = [
        [study, *map(str, arguments), "--out", str(out)]
        for (study, arguments, _), out in zip(expected, outs, strict=True)
    ]
    command = [sys.executable, "-c", CALLS, json.dumps(calls)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for (study, arguments, message), out, (status, errors) in zip(
        expected, outs, found, strict=True
    ):
        case = f"{study} {arguments}: {errors}"
        assert status == 2 and errors.startswith(f"{study}: "), case
        assert errors.count("\n") == 1 and message in errors, case
        assert not out.exists(), case
