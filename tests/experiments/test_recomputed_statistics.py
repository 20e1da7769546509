"""The study of recomputed statistics: its weights, its differences, and what it skips."""

import json

import numpy as np
import pytest

import keras_norms
from experiments.recomputed_statistics.measuring import by_statistics, trained
from experiments.recomputed_statistics.report import page_of
from keras_norms.keras_api import keras

from .study_runs import run, save_jpegs

pytestmark = pytest.mark.main_leg
LABELS = (np.arange(256) % 10).astype("int32")
SIZE = {"images": 256, "test_images": 200, "epochs": 1}


@pytest.fixture
def images():
    """Of one colour each with some noise."""
    noise = np.random.default_rng(1).integers(0, 30, (256, 32, 32, 3))
    return (25 * LABELS[:, None, None, None] + noise).astype("uint8")


@pytest.fixture
def model():
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((32, 32, 3)),
            layers.AveragePooling2D(32),
            layers.Flatten(),
            layers.Dense(4),
            keras_norms.BatchNormalization(),
            layers.Dense(10),
        ]
    )


def test_averaged_weights_come_with_the_statistics_of_the_last_ones(model, images):
    weights = trained(model, images, LABELS, 2, 1, lambda: None)
    moving = [not w.trainable for w in model.weights]
    last = weights["last"]["kept"]
    for name in ("swa", "ema"):
        for is_moving, ours, theirs in zip(moving, weights[name]["kept"], last, strict=True):
            assert np.array_equal(ours, theirs) == is_moving
    pairs = zip(weights["swa"]["averaged"], weights["swa"]["kept"], moving, strict=True)
    for averaged, kept, is_moving in pairs:
        assert np.array_equal(averaged, kept) != is_moving


def test_accuracies_are_those_of_the_statistics(model, images):
    """Without a mean of the images all would be alike to a layer that has statistics of 0 and 1."""

    class Spread:
        """Stands in for the accuracy: how far outputs of the normalization are from 1."""

        def __init__(self):
            self.model = model

        def __call__(self):
            outputs = images.astype("float32")
            for layer in model.layers[:4]:
                outputs = layer(outputs)
            return abs(float(np.std(outputs)) - 1)

    weights = model.get_weights()
    found = by_statistics(Spread(), {"kept": weights}, images)
    assert found["kept"] > 0.5 > 0.1 > found["recomputed"] == pytest.approx(found["sequential"])
    for was, now in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def made_up(swa):
    kinds = {"kept": 50.0, "recomputed": 51.0, "sequential": 51.25}
    case = {**kinds, "training": 48.0, "shift": [0.5, 0.25], "16": 45.0}
    return {
        "averaged": {
            "last": kinds,
            "swa": {**kinds, "averaged": 50.5, "recomputed": swa},
            "ema": kinds,
        },
        "shift": {name: [0.125, 0.0] for name in ("last", "swa", "ema")},
        "clean": 49.0,
        "corrupted": {
            f"{kind} {s}": case for kind in ("noise", "blur", "contrast") for s in (1, 5)
        },
        "seconds": 3.0,
    }


def test_the_report_compares_seed_by_seed():
    runs = {"cifar10/1": made_up(53.0), "cifar10/2": made_up(55.0)}
    *_, protocol, results = page_of({"size": SIZE, "runs": runs})
    text = "\n".join(results)
    assert "{" not in protocol + text and "Seeds are 1, 2, 3" in protocol
    assert "weights averaged, SWA: **holds**, +4.00 ± 1.00 points" in text
    assert "points below those of training: **does not hold**, -1.00 ± 0.00 points" in text
    row = "| averaged, SWA | 50.0 ± 0.0 | 50.5 ± 0.0 | 54.0 ± 1.0 | 51.2 ± 0.0 | 0.12, 0.00 |"
    assert row in text
    row = "| blur | 5 | 50.0 ± 0.0 | 48.0 ± 0.0 | 51.0 ± 0.0 | 51.2 ± 0.0 | +3.0 ± 0.0 |"
    assert row in text


@pytest.mark.full
def test_measures_what_is_missing_and_reports(images, tmp_path):
    data = save_jpegs(tmp_path / "images.npz", train=(images, LABELS), test=(images, LABELS))
    options = ["--data", data, "--images", 128, "--test-images", 64, "--epochs", 1]
    for seeds in ([1], [1, 2]):
        run("recomputed_statistics", *options, "--seeds", *seeds, "--out", tmp_path)
    path = tmp_path / "recomputed_statistics.json"
    assert list(json.loads(path.read_text())["runs"]) == ["cifar10/1", "cifar10/2"]
    assert (tmp_path / "recomputed_statistics_images.png").stat().st_size > 10_000
    assert "| contrast | 5 |" in (tmp_path / "recomputed_statistics.md").read_text()
