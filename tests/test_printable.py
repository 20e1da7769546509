"""Names from files cannot steer a terminal: messages, tables, logs and reports spell them out."""

import ast
import json
import pathlib
import types
import warnings

import numpy as np
import pytest

import keras_norms
from keras_norms import cli
from keras_norms.callbacks import SecondMomentMonitor, StatisticsDrift, TrainingInferenceDiscrepancy
from keras_norms.cli import inspect
from keras_norms.cli.model_files import read_npz
from keras_norms.conversion import renorm_to_stock
from keras_norms.diagnostics import StatisticsReference
from keras_norms.diagnostics.drift import Drift
from keras_norms.diagnostics.drift_report import page, short_labels
from keras_norms.files import write_whole
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.models.statistics_layers import batch_statistics_layers
from keras_norms.printable import printable

# A window title, a colour, a return to the start of the line, and letters from right to left.
EVIL = "\x1b]0;title\x07no\x1b[31mrm\r\u202eend"
SHOWN = r"\x1b]0;title\x07no\x1b[31mrm\r\u202eend"
ONE = {"mean": np.ones(1), "variance": np.ones(1)}


def test_spells_out_what_is_not_printable_and_nothing_else():
    assert printable("Größe 標準/norm_1 [red] é") == "Größe 標準/norm_1 [red] é"
    assert printable(EVIL) == SHOWN
    assert printable("\u009b\x7f\n\udcff") == r"\x9b\x7f\n\udcff"


def batchless():
    layer = keras_norms.BatchlessNormalization(monitor=0.5, name=EVIL)
    layer.build((None, 1))
    return layer


def monitor_of(layer):
    monitor = SecondMomentMonitor(band=(2.0, 3.0))
    monitor.set_model(keras.Sequential([layer]))
    monitor.on_train_begin()
    monitor.on_epoch_begin(0)
    return monitor


def drift():
    """One channel that drifted."""
    return Drift("psi", 0.25, {EVIL: np.ones(1)}, {EVIL: np.ones(1)}, {EVIL: np.ones((4, 1))})


def begun(callback, model):
    callback.set_model(model)
    callback.on_train_begin()


def nothing():
    model = keras.Sequential([keras.layers.Dense(1)], name=EVIL)
    model.build((None, 1))
    return model


def inputs(*names):
    return types.SimpleNamespace(inputs=[types.SimpleNamespace(name=name) for name in names])


ERRORS = {
    "layer": lambda folder: keras_norms.BatchNormalization(momentum=2, name=EVIL),
    "model": lambda folder: batch_statistics_layers(nothing(), "caller"),
    "weight_decay": lambda folder: keras_norms.exclude_statistics_from_weight_decay(
        keras.optimizers.SGD(), nothing()
    ),
    "monitor": lambda folder: begun(SecondMomentMonitor(), nothing()),
    "discrepancy": lambda folder: begun(TrainingInferenceDiscrepancy(), nothing()),
    "reference_load": lambda folder: StatisticsReference.load(folder / EVIL),
    "reference_is_of": lambda folder: StatisticsReference({EVIL: ONE}, "", 1).check_is_of(
        keras.Sequential([keras.Input((1,)), keras_norms.BatchNormalization()])
    ),
    "reference_drift_of": lambda folder: StatisticsReference({EVIL: ONE}, "", 1).drift_of(
        keras.Sequential([keras.Input((1,)), keras_norms.BatchNormalization()]), {}, "psi", 1.0
    ),
    "data_names": lambda folder: read_npz(folder / "two.npz", inputs("x", "y")),
    "data_one": lambda folder: read_npz(folder / "two.npz", inputs("z")),
    "data_text": lambda folder: read_npz(folder / "text.npz", inputs("x")),
    "data_path": lambda folder: read_npz(folder / f"no{EVIL}", inputs("x")),
    "input_names": lambda folder: read_npz(folder / "plain.npz", inputs(EVIL, "y")),
    "write": lambda folder: write_whole(folder / EVIL / "no" / "file", b""),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, tmp_path):
    written = {"format": 1, "layers": {EVIL: {"mean": [1.0], "variance": []}}}
    (tmp_path / EVIL).write_text(json.dumps(written))
    np.savez(tmp_path / "two.npz", **{EVIL: np.ones(1), "b": np.ones(1)})
    np.savez(tmp_path / "text.npz", **{EVIL: np.array(["text"])})
    np.savez(tmp_path / "plain.npz", b=np.ones(1))
    with pytest.raises((ValueError, OSError)) as caught:
        ERRORS[case](tmp_path)
    assert printable(caught.value) == str(caught.value) and SHOWN in str(caught.value)


def to_stock():
    renorm = keras_norms.BatchRenormalization(name=EVIL, synchronized=True)
    renorm_to_stock(renorm)


def drifted():
    callback = StatisticsDrift(StatisticsReference({EVIL: ONE}, "", 1), np.ones((2, 1)))
    callback.set_model(nothing())
    callback._compared = callback.model
    callback._statistics = types.SimpleNamespace(collect=lambda batches: {})
    callback.reference = types.SimpleNamespace(drift_of=lambda *_: drift())
    callback.on_test_begin()
    callback.on_test_end()


WARNINGS = {
    "monitor": lambda: monitor_of(batchless()).on_epoch_end(0, {}),
    "drift": drifted,
}
if IS_KERAS_3:
    WARNINGS["conversion"] = to_stock


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings(case):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        WARNINGS[case]()
    messages = [str(warning.message) for warning in caught]
    assert any(SHOWN in message for message in messages), messages
    assert all(printable(message) == message for message in messages)


def test_progress_bars():
    logs = {}
    with pytest.warns(UserWarning):
        monitor_of(batchless()).on_epoch_end(0, logs)
    assert list(logs) == [f"{SHOWN}_second_moment"]
    renorm = keras_norms.BatchRenormalization(clipping_metrics=True, name=EVIL)
    assert renorm.r_clipped.name == f"{SHOWN}_r_clipped"
    assert renorm.d_clipped.name == f"{SHOWN}_d_clipped"


def test_reports_and_tables(capsys):
    html = page(drift(), b"", f"title {EVIL}")
    assert SHOWN in html and printable(html.replace("\n", "")) == html.replace("\n", "")
    (label,) = short_labels([EVIL]).values()
    assert printable(label) == label
    options = types.SimpleNamespace(top=1, tolerate=0.0)
    inspect._print(drift(), options, [pathlib.Path(f"folder/{EVIL}")])
    out = capsys.readouterr().out.replace("\n", "")
    assert out.count(SHOWN) == 2 and printable(out) == out


def test_the_command_line(capsys):
    """It drops colours, which Keras puts around its own messages."""
    red = "\x1b[31m"
    for arguments in ([EVIL], [".", "--reference", EVIL.replace(red, "")]):
        assert cli.main(["inspect", *arguments, "--data", "x"]) == 2
        error = capsys.readouterr().err.removesuffix("\n")
        assert SHOWN.replace(printable(red), "") in error and printable(error) == error


def test_messages_escape_names():
    """Of a layer, a model or a file; `{name!r}` spells it out, too."""
    for path in pathlib.Path(keras_norms.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FormattedValue) and node.conversion == -1:
                text = ast.unparse(node.value)
                is_name = text.endswith(".name") and not text.endswith("dtype.name")
                assert not is_name and text not in ("path", "error"), f"{path}: {text}"
