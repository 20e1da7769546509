"""The examples run, and say one sentence about bad input."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

QUICKSTART = pathlib.Path(__file__).parent.parent / "examples" / "quickstart.py"


def quickstart(*arguments):
    return subprocess.run(
        [sys.executable, QUICKSTART, *map(str, arguments)], capture_output=True, text=True
    )


def test_quickstart_trains_exports_and_serves(tmp_path):
    result = quickstart("--smoke", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr[-2000:]
    # Trained on the compiled library, served by plain TensorFlow: the same within rounding.
    difference = re.search(r"largest difference to the trained model's: (\S+)", result.stdout)
    assert float(difference[1]) < 1e-5
    assert {"per replica", "synchronized"} <= set(re.findall(r"│ (\w+(?: \w+)?)", result.stdout))
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "arrays, message",
    [
        (None, "there is no file"),
        (dict(x_train=np.zeros((8, 8, 8))), "y_train"),
        (
            dict(
                x_train=np.zeros((8, 8, 8)),
                y_train=np.zeros(7, int),
                x_test=np.zeros((8, 8, 8)),
                y_test=np.zeros(8, int),
            ),
            "7",
        ),
    ],
)
def test_quickstart_rejects(arrays, message, tmp_path):
    path = tmp_path / "data.npz"
    if arrays is not None:
        np.savez(path, **arrays)
    result = quickstart("--data", path, "--smoke", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith("quickstart: ") and "Traceback" not in result.stderr
    assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "out").exists()
