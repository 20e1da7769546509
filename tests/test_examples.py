"""The examples run as they are, stay short, and import public names only."""

import ast
import json
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

import keras_norms
from keras_norms import api

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
# What the output of a short example must contain.
PRINTED = {
    "custom_loop": r"Largest difference to one replica: \de-1\d",
    "jax_batch_norm": r"Accuracy on new sets: 9\d\.",
    "one_class_batches": r"BatchRenormalization: accuracy [4-9]\d\.",
    "padded_texts": r"RegularizedBatchNormalization: gap of the mean 0\.\d",
    "single_instances": r"E\[z\^2\] of hidden: largest [2-9]",
    "watch_inputs": r"Sensor 3 reads half: sensors channel 3",
}
LONGER = "addons_swa", "multi_worker", "quickstart", "serve"
# TensorFlow takes seconds to load: one process runs all of the short ones.
RUN = """
import contextlib, io, json, runpy, sys

found = {}
for path in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_path(path, run_name="__main__")
    found[path] = output.getvalue()
print(json.dumps(found))
"""


def finished(*command):
    command = [sys.executable, *map(str, command)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.each_keras
def test_quickstart_trains_exports_and_serves(tmp_path):
    output = finished(EXAMPLES / "quickstart.py", "--smoke", "--out", tmp_path / "out")
    # Trained on the compiled library, served by plain TensorFlow: the same within rounding.
    difference = re.search(r"without keras_norms: largest difference (\S+)", output)
    assert float(difference[1]) < 1e-5
    assert "│ BatchNormalization" in output and "│ SyncBatchNormalization" in output


@pytest.mark.main_leg
def test_quickstart_says_one_sentence_about_bad_input(tmp_path, monkeypatch, capsys):
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--out", str(path)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / "quickstart.py"), run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"quickstart: {path} is a file, not a folder.\n"


@pytest.mark.main_leg
def test_without_tensorflow_addons_its_example_says_one_sentence():
    """Its run is in tests/test_addons.py."""
    without = "import runpy, sys; sys.modules['tensorflow_addons'] = None; sys.argv[1:] = []; "
    run = f"runpy.run_path({str(EXAMPLES / 'addons_swa.py')!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", without + run], capture_output=True, text=True)
    sentence = "addons_swa: this example needs tensorflow-addons, .*: pip install .*"
    assert result.returncode == 2 and re.fullmatch(sentence, result.stderr.rstrip("\n"))


@pytest.mark.main_leg
def test_short_examples_run_and_show_what_they_say():
    paths = [EXAMPLES / f"{name}.py" for name in PRINTED]
    found = json.loads(finished("-c", RUN, *paths).splitlines()[-1])
    for path, pattern in zip(paths, PRINTED.values(), strict=True):
        assert re.search(pattern, found[str(path)]), f"{path.name}: {found[str(path)]}"


@pytest.mark.main_leg
def test_several_workers_train_together():
    output = finished(EXAMPLES / "multi_worker.py", "--local-workers", "2", "--epochs", "4")
    accuracy = re.search(r"Accuracy on 2 workers: (\d+\.\d) %", output)
    assert float(accuracy[1]) > 50 and output.count("Epoch 4/4") == 1


@pytest.mark.main_leg
def test_the_example_for_workers_says_one_sentence_about_bad_input(monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    wrong = {
        (): r"multi_worker_strategy: TF_CONFIG must be .* Received: no TF_CONFIG\. Or start .*\n",
        ("--local-workers", "0"): r"multi_worker: --local-workers must be from 1 to 16\.\n",
    }
    for arguments, sentence in wrong.items():
        monkeypatch.setattr(sys, "argv", ["multi_worker.py", *arguments])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(EXAMPLES / "multi_worker.py"), run_name="__main__")
        assert stopped.value.code == 2
        assert re.fullmatch(sentence, capsys.readouterr().err)


@pytest.mark.main_leg
def test_examples_are_short_and_use_public_names_only():
    paths = sorted(EXAMPLES.glob("*.py"))
    assert {path.stem for path in paths} == {*PRINTED, *LONGER}
    for path in paths:
        text = path.read_text()
        assert text.count("\n") < 80, f"{path.name} has {text.count(chr(10))} lines"
        for name in names_of(ast.parse(text)):
            assert is_public(name), f"{path.name} uses {name}"


def names_of(tree):
    """What a script imports, and the names that it takes from keras_norms."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("keras_norms."):
            yield ast.unparse(node)


def is_public(name):
    package, *rest = name.split(".")
    if package != "keras_norms":
        return package not in ("examples", "experiments", "tests", "benchmarks")
    room = getattr(keras_norms, rest[0], None) if rest else None
    public = getattr(room, "__all__", rest)
    names = {*api.__all__, "jax"}  # The one public name that needs no TensorFlow.
    return not rest or (rest[0] in names and (len(rest) == 1 or rest[1] in public))
