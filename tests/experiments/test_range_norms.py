"""The study of ranges, formats and gates: its batches, gates and numbers, and what it skips."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from experiments.range_norms import __main__ as range_norms
from experiments.range_norms.contenders import CONTENDERS, HOMOGENEOUS, MIXED, Contender
from experiments.range_norms.protocol import BATCH
from experiments.range_norms.report import page_of
from experiments.range_norms.training import rows_of, train
from experiments.reports import interval

pytestmark = pytest.mark.main_leg
LABELS = np.arange(1300) % 10
SIZE = {"images": 128, "test_images": 10, "epochs": 1, "digits_epochs": 1}


def made_up(accuracy, **more):
    losses = {"train_loss": [1.0], "test_loss": [1.0]}
    return {"test_accuracy": [0.1, accuracy], "seconds": 2.0, **losses, **more}


def page_text(runs):
    *_, protocol, results = page_of({"size": SIZE, "runs": runs})
    return protocol, "\n".join(results)


def test_mixed_batches_are_a_permutation_of_each_epoch():
    rows = rows_of(MIXED, LABELS, 3, seed=1)
    assert rows.shape == (3, 10, BATCH)
    for epoch in rows:
        assert len(np.unique(epoch)) == epoch.size
    assert (rows[0] != rows[1]).any() and (rows == rows_of(MIXED, LABELS, 3, seed=1)).all()
    assert (rows != rows_of(MIXED, LABELS, 3, seed=2)).any()


def test_homogeneous_batches_hold_two_classes_and_five_of_them_hold_all():
    rows = rows_of(HOMOGENEOUS, LABELS, 2, seed=1)
    assert rows.shape == (2, 10, BATCH)
    classes = LABELS[rows.reshape(-1, BATCH)]
    for batch in classes:
        assert np.unique(batch, return_counts=True)[1].tolist() == [BATCH // 2] * 2
    for turn in classes.reshape(-1, 5 * BATCH):
        assert len(np.unique(turn)) == 10
    # A class has 130 images and 128 places an epoch: none comes twice before all have come once.
    assert len(np.unique(rows[0])) == rows[0].size


class AdaptiveOpen(keras_norms.BatchNormalization):
    """Stands in for an adaptive layer that normalizes every batch."""


class AdaptiveClosed(keras_norms.BatchNormalization):
    """Stands in for one that normalizes none."""

    def call(self, inputs, training=None, mask=None):
        super().call(inputs, training=training)
        return self.gamma * inputs + self.beta


class Standardization:
    """Stands in for one of input batches, which acts where an image is of class 0."""

    def adapt(self, images, labels):
        assert len(images) == len(labels) == 1280

    def __call__(self, x, labels):
        return tf.where(tf.reduce_any(labels == 0), x - 0.5, x)


class ClosedStandardization(Standardization):
    def __call__(self, x, labels):
        return x


@pytest.fixture
def problem():
    images = np.random.default_rng(1).random((1280, 4, 4, 1), dtype="float32")
    labels = (np.arange(1280) % 10).astype("int32")
    return range_norms.Problem((images, labels), (images[:20], labels[:20]), ((4, 1), (4, 2)), 0.5)


@pytest.mark.parametrize("after_relu", [False, True])
@pytest.mark.parametrize(("layer", "share"), [(AdaptiveOpen, 1.0), (AdaptiveClosed, 0.0)])
def test_counts_the_open_gates_of_layers(problem, layer, share, after_relu):
    contender = Contender("", layer, after_relu=after_relu)
    run = train(contender, MIXED, problem, 2, 0.1, seed=1)
    assert run["open_gates"] == [share, share]


def test_counts_the_batches_that_were_standardized(problem):
    contender = Contender("", lambda: None, lambda problem: Standardization())
    run = train(contender, HOMOGENEOUS, problem, 2, 0.1, seed=1)
    assert run["open_gates"] == [0.2, 0.2]  # One batch in five holds class 0.


def test_runs_are_paired_and_the_layer_makes_the_difference(problem):
    with_closed_gate = Contender("", lambda: None, lambda problem: ClosedStandardization())
    without = Contender("", lambda: None)
    runs = [train(c, MIXED, problem, 1, 0.1, seed=1) for c in (without, with_closed_gate)]
    assert runs[0]["train_loss"] == runs[1]["train_loss"]
    assert "open_gates" not in runs[0] and runs[1]["open_gates"] == [0.0]
    normalized = train(CONTENDERS["batch"], MIXED, problem, 1, 0.1, seed=1)
    assert normalized["train_loss"] != runs[0]["train_loss"]


def test_the_interval_is_that_of_student():
    mean, half = interval([1.0, 2.0, 3.0])  # Deviation 1; the quantile of 2 degrees is 4.30265.
    assert mean == 2 and half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert np.isnan(interval([1.0])[1])


def test_the_report_compares_seed_by_seed():
    """Differences -1, -2 and -3 points, though the accuracies of the seeds lie far apart."""
    ours, theirs = (0.50, 0.60, 0.70), (0.49, 0.58, 0.67)
    runs = {}
    for seed in range(3):
        runs[f"cifar10/mixed/batch/{seed}"] = made_up(ours[seed])
        runs[f"cifar10/mixed/range_calibrated/{seed}"] = made_up(theirs[seed])
    runs["digits/homogeneous/none/0"] = made_up(0.5)
    runs["digits/homogeneous/adaptive_input/0"] = made_up(0.75, open_gates=[0.25, 0.75])
    protocol, results = page_text(runs)
    assert "{" not in protocol and "Seeds are 1, 2, 3" in protocol
    assert "| mixed | batch normalization | 60.0 ± 10.0 |  |  |  | 1.000 | 3 | 2 |" in results
    row = "| mixed | ranges, calibrated constant | 58.0 ± 9.0 | -2.00 [-4.48, +0.48] |  |"
    assert row in results
    row = "| homogeneous | adaptive input, band 1.2 | 75.0 |  | +25.00 | 50 % | 1.000 | 1 | 2 |"
    assert row in results
    assert "below batch normalization: **does not hold**, -2.00 [-4.48, +0.48] points" in results
    assert "8 runs, 16 seconds" in results and "Not run: cifar10 mixed range_banner" in results


def test_a_diverged_run_is_reported_as_such():
    runs = {"cifar10/mixed/batch/1": made_up(0.5), "cifar10/mixed/none/1": made_up(0.1)}
    runs["cifar10/mixed/none/1"]["train_loss"] = [None]
    assert "| mixed | no normalization | 10.0 | -40.00 |  |  | nan | 1 | 2 |" in page_text(runs)[1]


def test_trains_what_is_missing_and_reports(tmp_path, monkeypatch, capsys):
    options = ["--data-sets", "digits", "--digits-epochs", 1, "--seeds", 1, "--out", tmp_path]
    monkeypatch.setattr(range_norms, "DIGITS", {"images": BATCH})
    # Other tests of this process have started TensorFlow's threads already.
    monkeypatch.setattr("experiments.command.limit_threads", lambda count: None)
    for only in ("batch", "batch,none"):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["range_norms", *map(str, options), "--only", only])
        assert range_norms.main() == 0
    said = capsys.readouterr().out
    assert "mixed none 1:" in said and "mixed batch 1:" not in said
    runs = json.loads((tmp_path / "range_norms.json").read_text())["runs"]
    pairs = [
        f"digits/{kind}/{name}/1" for kind in (HOMOGENEOUS, MIXED) for name in ("batch", "none")
    ]
    assert list(runs) == pairs
    report = (tmp_path / "range_norms.md").read_text()
    assert "| homogeneous | no normalization | " in report
    for name in ("accuracy", "differences"):
        assert (tmp_path / f"range_norms_digits_{name}.png").stat().st_size > 10_000
