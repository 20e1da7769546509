"""Runs the examples as users do, in a process of their own."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"

# TensorFlow takes seconds to load: one process for many calls of an example's main().
CALLS = """
import contextlib, importlib, io, json, sys

folder, script, *calls = json.loads(sys.argv[1])
sys.path.insert(0, folder)
module, found = importlib.import_module(script), []
for arguments in calls:
    sys.argv, errors = [script, *arguments], io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = module.main()
    found.append([status, errors.getvalue()])
print(json.dumps(found))
"""


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{script}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def check_rejected(script, cases, folder):
    """Each gets one sentence and the exit status 2, and writes nothing.

    Args:
        script: the example.
        cases: arguments, and what the sentence must contain.
        folder: an empty one.
    """
    outs = [folder / f"out_{number}" for number in range(len(cases))]
    calls = [
        [*map(str, arguments), "--out", str(out)]
        for (arguments, _), out in zip(cases, outs, strict=True)
    ]
    result = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps([str(EXAMPLES), script, *calls])],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for (arguments, message), out, (status, errors) in zip(cases, outs, found, strict=True):
        case = f"{script} {arguments}: {errors}"
        assert status == 2 and errors.startswith(f"{script}: "), case
        assert errors.count("\n") == 1 and message in errors, case
        assert not out.exists(), case


def save_jpegs(path, **parts):
    """Labelled images as JPEG bytes in an .npz: `train=(images, labels)` for example."""
    arrays = {}
    for part, (images, labels) in parts.items():
        data = [tf.io.encode_jpeg(image).numpy() for image in images.astype(np.uint8)]
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(data), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, data)])
        arrays[f"{part}_labels"] = labels
    np.savez(path, **arrays)
    return path
