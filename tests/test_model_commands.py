"""Commands that take a model or change it, and `bench`: files, reports, errors."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms import cli
from keras_norms.cli import bench
from keras_norms.keras_api import keras


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder with a trained model and its inputs; the two."""
    folder = tmp_path_factory.mktemp("originals")
    keras.utils.set_random_seed(1)
    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense"), norm])
    model.compile("adam", "mse")
    x = np.random.default_rng(20).normal(2.0, 3.0, (64, 4)).astype(np.float32)
    model.fit(x, np.zeros((64, 3)), verbose=0)
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=x)
    return folder, model, x


@pytest.fixture
def files(originals, tmp_path, monkeypatch):
    folder, model, x = originals
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    # TensorFlow is running here; in a process of its own the command makes its devices first.
    monkeypatch.setattr(tf.config, "set_logical_device_configuration", lambda *args: None)
    return model, x


def loaded(name):
    return keras.models.load_model(name)


def test_convert_there_and_back(files, capsys):
    model, x = files
    assert cli.main(["convert", "model.keras", "ours.keras"]) == 0
    assert "norm" in (text := capsys.readouterr().out) and "SyncBatchNormalization" in text
    ours = loaded("ours.keras")
    assert type(ours.layers[-1]) is keras_norms.SyncBatchNormalization
    assert int(np.asarray(ours.optimizer.iterations)) == 2
    back = ["convert", "ours.keras", "back.keras", "--to", "stock", "--set", "synchronized=False"]
    assert cli.main([*back, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"][0]["became"] == "BatchNormalization"
    for one, other in zip(loaded("back.keras").weights, model.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_fold(files, capsys):
    model, x = files
    assert cli.main(["fold", "model.keras", "folded.keras"]) == 0
    assert "dense" in capsys.readouterr().out
    folded = loaded("folded.keras")
    assert len(folded.layers) == 1
    np.testing.assert_allclose(folded(x), model(x, training=False), rtol=1e-4, atol=1e-5)


def test_fuse_there_and_back(files, capsys):
    norm = keras_norms.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.ReLU(name="relu")])
    model.save("plain.keras")
    assert cli.main(["fuse", "plain.keras", "fused.keras"]) == 0
    assert "activation(y)" in capsys.readouterr().out
    assert [layer.name for layer in loaded("fused.keras").layers] == ["norm"]
    assert cli.main(["fuse", "fused.keras", "back.keras", "--undo", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["layers"][0]
    assert (row["path"], row["note"]) == ("norm", "followed by 'norm_activation'")
    back, x = loaded("back.keras"), files[1]
    np.testing.assert_array_equal(back(x), model(x))
    assert cli.main(["fuse", "model.keras", "out.keras"]) == 0
    assert "convert it first with convert_batch_norm" in capsys.readouterr().out
    assert cli.main(["convert", "fused.keras", "out.keras", "--to", "stock", "--force"]) == 2
    assert "unfuse_activations first" in capsys.readouterr().err


def test_recompute(files, capsys):
    model, x = files
    command = ["recompute", "model.keras", "ready.keras", "--data", "data.npz", "--json"]
    assert cli.main(command) == 0
    row = json.loads(capsys.readouterr().out)["layers"][0]
    assert (row["layer"], row["values"]) == ("norm", 64.0)
    mean = np.asarray(model.layers[0](x), np.float64).mean(0)
    actual = np.asarray(loaded("ready.keras").layers[-1].moving_mean)
    np.testing.assert_allclose(actual, mean, rtol=1e-5)


def test_advise(files, capsys):
    command = ["advise", "model.keras", "--data", "data.npz", "--replicas", "2", "--batch", "8"]
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in report["layers"]] == ["norm"]
    assert cli.main(command) == 0
    assert "For the model: " in capsys.readouterr().out


def test_bench(capsys, monkeypatch):
    monkeypatch.setattr(bench, "SHAPES", [(4, 3)])
    assert cli.main(["bench", "--rounds", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["steps"]
    assert row["shape"] == [4, 3] and row["ours_ms"] > 0 and row["stock_ms"] > 0
    assert cli.main(["bench", "--rounds", "1"]) == 0
    assert "4×3" in capsys.readouterr().out
    assert cli.main(["bench", "--rounds", "0"]) == 2


def test_an_output_is_replaced_only_by_force(files, capsys):
    with open("ours.keras", "w") as file:
        file.write("mine")
    assert cli.main(["convert", "model.keras", "ours.keras"]) == 2
    assert "ours.keras exists; --force replaces it." in capsys.readouterr().err
    with open("ours.keras") as file:
        assert file.read() == "mine"
    assert cli.main(["convert", "model.keras", "ours.keras", "--force"]) == 0
    assert loaded("ours.keras")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("convert nothing.keras out.keras", "there is no model nothing.keras."),
        ("convert data.npz out.keras", "data.npz cannot be loaded"),
        ("convert model.keras out.h5", "OUTPUT must end in .keras. Received: out.h5."),
        ("convert model.keras model.keras --force", "OUTPUT must be a file of its own"),
        ("convert model.keras no/out.keras", "there is no folder no."),
        ("convert model.keras out.keras --to Dense", "--to must be stock or one of BatchNorm"),
        ("convert model.keras out.keras --set r_max", "--set must be NAME=VALUE. Received: r_max"),
        ("convert model.keras out.keras --set r_max=2", "one that SyncBatchNormalization takes"),
        ("convert model.keras out.keras --import nobody", "No module named 'nobody'"),
        ("recompute model.keras out.keras --data nothing.npz", "there is no file nothing.npz."),
        ("advise model.keras --data data.npz --replicas 0 --batch 4", "--replicas must be"),
        ("advise nothing.keras --data data.npz --replicas 1 --batch 4", "there is no model"),
    ],
)
def test_rejects(files, capsys, tmp_path, arguments, message):
    before = sorted(path.name for path in tmp_path.iterdir())
    assert cli.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
