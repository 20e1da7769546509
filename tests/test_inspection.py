"""`keras-norms inspect`: exit codes, what it prints and writes, and what it refuses."""

import importlib
import json
import subprocess
import sys
import types

import numpy as np
import pytest

import keras_norms
from keras_norms import cli
from keras_norms.cli.model_files import read_npz
from keras_norms.keras_api import IS_KERAS_3, keras


@pytest.fixture
def files(tmp_path, rng):
    """A saved model, and data as it knows it, shifted, and poisoned."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras_norms.BatchNormalization(name="first"),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(name="second"),
        ]
    )
    model.save(tmp_path / "model.keras")
    clean = rng.normal(size=(400, 6)).astype(np.float32)
    shifted = clean + np.float32([0, 0, 3, 0, 0, 0])
    poisoned = clean.copy()
    poisoned[64:96] = np.nan
    for name, data in {"clean": clean, "shifted": shifted, "poisoned": poisoned}.items():
        np.savez(tmp_path / f"{name}.npz", data)
    return tmp_path


def run(files, data, *arguments, model="model.keras"):
    arguments = "inspect", files / model, "--data", files / data, *arguments
    return cli.main(list(map(str, arguments)))


def test_record_then_inspect(files, capsys):
    assert run(files, "clean.npz", "--record") == 0
    assert (files / "model.statistics.json").is_file()
    assert run(files, "clean.npz") == 0
    assert "0 of 10 channels" in capsys.readouterr().out
    assert run(files, "shifted.npz", "--top", "3") == 1
    printed = capsys.readouterr().out
    assert "first" in printed and "psi above 0.25" in printed
    assert run(files, "shifted.npz", "--tolerate", "1") == 0
    assert run(files, "shifted.npz", "--threshold", "1000") == 0


def test_the_verdict_is_printed(files, capsys):
    """To a file, in lines that are not broken."""
    run(files, "clean.npz", "--record")
    capsys.readouterr()
    assert run(files, "shifted.npz", "--tolerate", "0.9") == 0
    assert "within the tolerated share of 0.9" in capsys.readouterr().out
    assert run(files, "shifted.npz") == 1
    printed = capsys.readouterr().out
    assert "This is more than the tolerated share of 0." in printed
    assert "reference stddev" in printed


@pytest.mark.main_leg
def test_imports_the_module_of_a_custom_layer(files, monkeypatch, capsys):
    module = files / "layers_of_mine.py"
    module.write_text(
        "from keras_norms.keras_api import keras\n\n\n"
        "@keras.utils.register_keras_serializable('mine')\n"
        "class Doubled(keras.layers.Layer):\n"
        "    def call(self, inputs):\n"
        "        return 2 * inputs\n"
    )
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)
    doubled = importlib.import_module("layers_of_mine").Doubled()
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(doubled(inputs)))
    model.save(files / "own.keras")
    # In a process that does not know the layer.
    script = (
        "from keras_norms import cli; "
        "command = ['inspect', 'own.keras', '--data', 'clean.npz', '--record']; "
        "assert cli.main(command) == 2; "
        "assert cli.main([*command, '--import', 'layers_of_mine']) == 0"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    (files / "script_of_mine.py").write_text("print('noise')\nraise SystemExit(0)\n")
    assert run(files, "clean.npz", "--import", "script_of_mine", model="own.keras") == 2
    assert run(files, "clean.npz", "--import", "no_such_module", model="own.keras") == 2
    assert "no_such_module" in capsys.readouterr().err


def test_a_model_trained_further(files, capsys):
    run(files, "clean.npz", "--record")
    model = keras.models.load_model(files / "model.keras")
    model.set_weights([1.1 * weight for weight in model.get_weights()])
    model.save(files / "model.keras")
    assert run(files, "clean.npz") == 2
    assert "--other-weights" in capsys.readouterr().err
    assert run(files, "clean.npz", "--other-weights") == 0


@pytest.mark.parametrize("target", ["model.keras", "clean.npz"])
def test_record_overwrites_neither_model_nor_data(files, capsys, target):
    before = (files / target).read_bytes()
    assert run(files, "clean.npz", "--record", "--reference", files / target) == 2
    assert "--reference must be a file of its own" in capsys.readouterr().err
    assert (files / target).read_bytes() == before


def test_a_model_without_weights(files, capsys, monkeypatch):
    unbuilt = keras.Sequential([keras.layers.Dense(2), keras.layers.BatchNormalization()])
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: unbuilt)
    assert run(files, "clean.npz", "--record") == 2
    assert "was saved before the model had weights" in capsys.readouterr().err
    assert not (files / "model.statistics.json").exists()


def test_a_colon_in_a_name_is_part_of_it_in_keras_3(files):
    tensors = [types.SimpleNamespace(name=name) for name in ("a:1", "b:1")]
    model = types.SimpleNamespace(inputs=tensors)
    names = ["a:1", "b:1"] if IS_KERAS_3 else ["a", "b"]
    np.savez(files / "named.npz", **{name: np.full(3, i) for i, name in enumerate(names)})
    for number, array in enumerate(read_npz(files / "named.npz", model)):
        np.testing.assert_array_equal(array, number)


def test_json_output(files, capsys):
    run(files, "clean.npz", "--record")
    capsys.readouterr()
    assert run(files, "shifted.npz", "--json", "--measure", "kl", "--threshold", "1") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["measure"] == "kl" and found["channels"] == 10
    assert found["worst_batch"]["value"] > 0.5 and 0 <= found["worst_batch"]["index"] < 13
    worst = found["drifted"][0]
    assert (worst["layer"], worst["channel"]) == ("first", 2)
    np.testing.assert_allclose(worst["mean"] - worst["reference_mean"], 3.0, rtol=1e-3)


@pytest.mark.parametrize("data", ["shifted.npz", "poisoned.npz"])
def test_the_report_is_a_picture_and_a_page(files, capsys, data):
    run(files, "clean.npz", "--record")
    assert run(files, data, "--report", files / "report") == 1
    picture, page = (files / "report" / name for name in ("drift.png", "drift.html"))
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    text = page.read_text()
    assert "data:image/png;base64," in text and "<td>first</td>" in text and "://" not in text
    assert sorted(path.name for path in (files / "report").iterdir()) == ["drift.html", "drift.png"]


def test_inputs_by_name(tmp_path, rng, capsys):
    inputs = [keras.Input((3,), name=name) for name in ("left", "right")]
    outputs = keras_norms.BatchNormalization()(keras.layers.Concatenate()(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "two.keras")
    data = {name: rng.normal(size=(90, 3)).astype(np.float32) for name in ("left", "right")}
    np.savez(tmp_path / "both.npz", **data)
    np.savez(tmp_path / "one.npz", left=data["left"])
    assert run(tmp_path, "both.npz", "--record", model="two.keras") == 0
    assert run(tmp_path, "both.npz", model="two.keras") == 0
    assert run(tmp_path, "one.npz", model="two.keras") == 2
    assert "an array for each input, left, right. Received: left." in capsys.readouterr().err


def test_inputs_in_a_dict(tmp_path, rng):
    inputs = {name: keras.Input((3,), name=name) for name in ("zz", "aa")}
    outputs = keras_norms.BatchNormalization(name="n")(inputs["zz"] - inputs["aa"])
    keras.Model(inputs, outputs).save(tmp_path / "two.keras")
    aa, zz = rng.normal(size=(2, 90, 3)).astype(np.float32)
    np.savez(tmp_path / "both.npz", aa=aa, zz=zz + 5.0)
    assert run(tmp_path, "both.npz", "--record", model="two.keras") == 0
    content = json.loads((tmp_path / "two.statistics.json").read_text())
    np.testing.assert_allclose(content["layers"]["n"]["mean"], (zz + 5.0 - aa).mean(0), rtol=1e-5)


def test_names_with_markup(files, capsys):
    (files / "clean.npz").rename(files / "a$b^$_.npz")
    assert run(files, "a$b^$_.npz", "--record") == 0
    assert run(files, "a$b^$_.npz", "--report", files / "rep[red]") == 0
    assert "rep[red]" in capsys.readouterr().out.replace("\n", "")
    assert (files / "rep[red]" / "drift.png").is_file()


@pytest.mark.parametrize(
    "change, arguments, message",
    [
        ("no reference", (), "there is no reference"),
        ("no model", (), "there is no model"),
        ("bad model", (), "cannot be loaded as a Keras model"),
        ("bad reference", (), "must be a file that `save` wrote"),
        ("other weights", (), "other weights"),
        ("no data", (), "there is no file"),
        ("bad data", (), "cannot be read as .npz"),
        ("other shape", (), "5"),
        ("empty", (), "at least one instance"),
        ("several", (), "must have one array, or the inputs as 'x'. Received: a, b."),
        ("strings", (), "must hold numbers, instance by instance. Received: 'x' of <U1"),
        ("scalar", (), "must hold numbers, instance by instance. Received: 'x' of float64"),
        ("report is a file", (), "--report must be a folder"),
        (None, ("--record",), "so it takes no --report"),
        (None, ("--tolerate", "2"), "--tolerate must be a share"),
        (None, ("--top", "-1"), "--top must be at least 0"),
        (None, ("--threshold", "-1"), "`threshold` must be a finite number"),
        (None, ("--batch-size", "0"), "`batch_size` must be a positive int"),
    ],
)
def test_rejects(files, capsys, change, arguments, message):
    run(files, "clean.npz", "--record")
    data, reference = files / "clean.npz", files / "model.statistics.json"
    x = np.load(data)["arr_0"]
    if change == "no reference":
        reference.unlink()
    elif change == "no model":
        (files / "model.keras").unlink()
    elif change == "bad model":
        (files / "model.keras").write_text("nothing")
    elif change == "bad reference":
        reference.write_text("{}")
    elif change == "other weights":
        model = keras.models.load_model(files / "model.keras", compile=False)
        model.set_weights([w + 1 for w in model.get_weights()])
        model.save(files / "model.keras")
    elif change == "no data":
        data.unlink()
    elif change == "bad data":
        data.write_text("nothing")
    elif change == "other shape":
        np.savez(data, x[:, :5])
    elif change == "empty":
        np.savez(data, x[:0])
    elif change == "strings":
        np.savez(data, x=np.full(x.shape, "a"))
    elif change == "scalar":
        np.savez(data, x=1.0)
    elif change == "report is a file":
        (files / "report").write_text("mine")
    elif change == "several":
        np.savez(data, a=x, b=x)
    capsys.readouterr()
    report = files / "report"
    assert run(files, "clean.npz", "--report", report, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-norms inspect: ") and "Traceback" not in error
    assert message in error and error.count("\n") == 1
    assert not report.is_dir()


def test_a_record_that_fails_keeps_the_old_one(files, capsys):
    run(files, "clean.npz", "--record")
    before = (files / "model.statistics.json").read_text()
    assert run(files, "poisoned.npz", "--record") == 2
    assert "must lead to finite statistics" in capsys.readouterr().err
    assert (files / "model.statistics.json").read_text() == before
