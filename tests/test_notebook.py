"""The notebook runs, and what its text says is true of the outputs that are kept in it."""

import base64
import json
import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.main_leg
ROOT = pathlib.Path(__file__).parents[1]
KEPT = ROOT / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebook") / "tour.ipynb"
    command = [sys.executable, "docs/site/execute.py", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(params=["kept", "run"])
def outputs(request):
    path = KEPT if request.param == "kept" else request.getfixturevalue("run")
    cells = json.loads(path.read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", ())]


def printed(outputs):
    return "".join("".join(output.get("text", "")) for output in outputs)


def percents(text, pattern):
    return [int(number) / 100 for number in re.search(pattern, text).groups()]


def test_the_text_is_true(outputs):
    text = printed(outputs)
    assert text.count("-> [-1.  1.]") == 2
    stock, stock_test = percents(text, r"stock +training (\d+)%, test (\d+)%")
    trained, trained_test = percents(text, r"synchronized +training (\d+)%, test (\d+)%")
    assert stock < 0.8 and trained > 0.9
    assert trained_test > stock_test + 0.1
    before, converted = percents(text, r"as it was: (\d+)%, converted: (\d+)%")
    assert before == converted == stock_test
    (after,) = percents(text, r"after two more epochs: (\d+)%")
    assert after > before + 0.05
    assert "['Dense', 'ReLU', 'Dense', 'ReLU', 'Dense']" in text
    assert "within 1e-4: True" in text
    assert percents(text, r"served: (\d+)%") == [trained_test]


def test_there_is_a_figure(outputs):
    (figure,) = (o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {}))
    assert base64.b64decode(figure).startswith(b"\x89PNG")


def test_what_is_kept_names_no_machine_and_holds_no_warning():
    outputs = [o for c in json.loads(KEPT.read_text())["cells"] for o in c.get("outputs", ())]
    assert all(o["output_type"] in ("stream", "display_data") for o in outputs)
    assert all(o.get("name", "stdout") == "stdout" for o in outputs)
    assert not re.search(r"Warning|WARNING|Error|INFO|/\w+/", printed(outputs))
