"""The study near convergence: how its pilot chooses, its batches, what it measures and reports."""

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from experiments.renorm_convergence.choosing import chosen, ramp_trials, rate_trials
from experiments.renorm_convergence.protocol import SETTINGS
from experiments.renorm_convergence.report import page_of
from experiments.renorm_convergence.training import clipped_shares, ending, halved
from experiments.small_batches.training import course

from .study_runs import run, save_jpegs

pytestmark = pytest.mark.main_leg
keras = tf.keras
SIZE = {"images": 256, "held_out": 64, "test_images": 64, "epochs": 2, "pilot_epochs": 1}


def tried(method, accuracies, setting="groups-4"):
    """Finished trials of a pilot, from accuracies by ramps and rate."""
    return {
        f"pilot/{setting}/{method}/{ramps}/{rate}/1000": {"test_accuracy": [0.1, found], "steps": 1}
        for (ramps, rate), found in accuracies.items()
    }


def made_up(accuracy, **more):
    losses = dict.fromkeys(("train_loss", "test_loss", "train_inference_loss", "batch_loss"), [1.0])
    measured = dict(batch_accuracy=0.5, mean_tid=0.2, variance_tid=0.1, steps=7, seconds=1.0)
    return (
        {"test_accuracy": [0.1, accuracy], "rate": 0.1, "ramps": "none"} | losses | measured | more
    )


def test_each_2x2_pixels_become_their_average():
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[0, 2:4, 6:8, 1] = [[10, 20], [30, 41]]  # 25.25 on average.
    found = halved(images)
    assert found.shape == (1, 16, 16, 3) and found.dtype == np.uint8
    assert found[0, 1, 3, 1] == 25 and found.sum() == 25


def test_groups_of_pairs_hold_few_labels_and_an_epoch_leaves_out_a_remainder():
    labels = np.arange(1000) % 10
    rows = course(labels, SETTINGS["pairs"], 2, seed=0)
    assert rows.shape == (2, 30, 32)  # 15 times 64 of 1,000 images.
    for epoch in rows % 1000:
        assert len(np.unique(epoch)) == 960
    groups = labels[rows.reshape(-1, 8) % 1000]
    held = np.mean([len(np.unique(group)) for group in groups])
    assert 4 <= held < 5  # At random they hold 5.7.


def test_rates_are_tried_until_the_best_has_neighbours():
    def trials(accuracies):
        found = tried("BN", {("none", rate): value for rate, value in accuracies.items()})
        return [key[4] for key in rate_trials(found, ["groups-4"], ["BN"])]

    assert trials({}) == [0.1]
    assert trials({0.1: 0.6}) == [0.03, 0.3]
    assert trials({0.03: 0.5, 0.1: 0.6, 0.3: 0.7}) == [1.0]
    assert trials({0.03: 0.5, 0.1: 0.6, 0.3: 0.5}) == []
    assert trials({0.3: 0.5, 1.0: 0.7}) == []  # There is no higher rate.


def test_ramps_are_tried_with_the_best_rate_of_the_papers_and_the_best_of_all_is_chosen():
    found = tried("BRN", {("paper", 0.1): 0.6, ("paper", 0.3): 0.7})
    names = [(key[3], key[4]) for key in ramp_trials(found, ["groups-4"], ["BN", "BRN"])]
    assert names == [("late", 0.3), ("narrow", 0.3)]
    found |= tried("BRN", {("late", 0.3): 0.8}) | tried("BRN", {("narrow", 0.3): 0.9}, "pairs")
    assert chosen(found, "groups-4", "BRN") == ("late", 0.3)
    assert ramp_trials(found, ["groups-4"], ["BN"]) == []


def test_measures_what_tells_training_and_inference_apart_and_restores_the_model():
    layer = keras_norms.BatchRenormalization(
        r_max=1.0, d_max=0.0, virtual_batch_size=4, clipping_metrics=True
    )
    layers = [keras.layers.GlobalAveragePooling2D(), layer, keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
    images = np.random.default_rng(0).integers(0, 256, (128, 16, 16, 3)).astype("uint8")
    data = images, np.arange(128, dtype="int32") % 10
    before = model.get_weights()
    found = ending(model, SETTINGS["groups-4"], data, data, seed=1)
    for kept, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, kept)
    loss = keras.losses.sparse_categorical_crossentropy(data[1], model(images), from_logits=True)
    np.testing.assert_allclose(found["train_inference_loss"], np.mean(loss), rtol=1e-4)
    # Colours are near 127.5 in all images, and the moving mean is still 0.
    np.testing.assert_allclose(found["mean_tid"], 127.5, rtol=0.02)
    assert found["batch_loss"] < found["train_inference_loss"]
    # With these limits a correction of any size is clipped.
    assert clipped_shares(model) == {"r_clipped": 1.0, "d_clipped": 1.0}
    assert clipped_shares(model) == {"r_clipped": 0.0, "d_clipped": 0.0}


def test_the_report_decides_by_intervals_and_shows_the_pilot():
    runs = tried("BN", {("none", 0.1): 0.61, ("none", 0.3): 0.6})
    runs |= tried("BRN", {("paper", 0.1): 0.6, ("late", 0.1): 0.62})
    gains = {"groups-4": (1.0, 1.1, 0.9), "groups-2": (-1.0, -1.1, -0.9), "pairs": (1.0, 9.0, 2.0)}
    for setting, of_setting in gains.items():
        for seed, points in enumerate(of_setting, 1):
            runs[f"{setting}/BN/{seed}"] = made_up(0.6)
            clipped = dict(ramps="late", r_clipped=[0.5, 0.25], d_clipped=[0.5, 0.0])
            runs[f"{setting}/BRN/{seed}"] = made_up(0.6 + points / 100, **clipped)
    page = "\n".join(page_of({"size": SIZE, "runs": runs})[3])
    assert "groups of 4: **holds**, +1.00 [+0.75, +1.25] points" in page
    assert "groups of 2: **refuted**, -1.00 [-1.25, -0.75] points" in page
    assert "pairs of a label: **open**, +4.00 [" in page
    assert "+1.00, +1.10, +0.90 | +1.00 [+0.75, +1.25] |" in page
    assert "| groups of 4 | BN |  | **61.0** | 60.0 |" in page
    assert "| groups of 4 | BRN | late | **62.0** |  |" in page
    assert "| 25.00 | 0.00 |" in page  # Clipped in the last epoch.


def test_without_runs_there_is_a_page():
    assert "No run yet." in page_of({"size": SIZE, "runs": {}})[3]


@pytest.mark.full
def test_the_second_call_adds_the_missing_runs_and_reports(tmp_path):
    rng = np.random.default_rng(1)
    parts = {
        part: (rng.integers(0, 256, (count, 32, 32, 3)), np.arange(count) % 10)
        for part, count in (("train", 384), ("test", 64))
    }
    options = ["--data", save_jpegs(tmp_path / "images.npz", **parts), "--images", 384]
    options += ["--held-out", 64, "--test-images", 64, "--epochs", 1, "--pilot-epochs", 1]
    options += ["--seeds", 1, "--settings", "groups-2", "--out", tmp_path]
    run("renorm_convergence", *options, "--methods", "BN")
    first = json.loads((tmp_path / "renorm_convergence.json").read_text())["runs"]
    run("renorm_convergence", *options)
    second = json.loads((tmp_path / "renorm_convergence.json").read_text())["runs"]
    assert first.items() <= second.items() and "groups-2/BRN/1" in second
    assert second["groups-2/BRN/1"]["steps"] == 12
    report = (tmp_path / "renorm_convergence.md").read_text()
    assert "| groups of 2 | BRN |" in report and "### Pilot" in report
    assert (tmp_path / "renorm_convergence_curves.png").stat().st_size > 10_000
