"""Exported models serve where keras_norms is not installed, with stock operations only."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_norms.keras_api import IS_KERAS_3
from tests import catalog, strategies
from tests.conformance import models, rows

# Runs where `keras_norms` cannot be imported: [saved model, input, output] of each case.
SERVER = """
import json, sys
sys.modules["keras_norms"] = None
import numpy as np, tensorflow as tf
for path, x, y in json.loads(sys.argv[1]):
    loaded = tf.saved_model.load(path)
    x = tf.constant(np.load(x))
    if hasattr(loaded, "serve"):
        result = loaded.serve(x)
    else:
        (result,) = loaded.signatures["serving_default"](x).values()
    np.save(y, result)
try:
    import keras_norms
except ImportError:
    print("without keras_norms")
"""


def writers():
    """The ways in which a model is exported."""
    if IS_KERAS_3:
        return {"export": lambda model, path: model.export(path, verbose=False)}
    # `save` also traces the training function into the file.
    return {"export": lambda model, path: model.export(path), "save": lambda m, path: m.save(path)}


def served(cases, folder):
    """Predictions for the inputs at each path, from one process: starting takes seconds."""
    paths = [(path, f"{path}_x.npy", f"{path}_y.npy") for path in cases]
    for (_, x, _), inputs in zip(paths, cases.values(), strict=True):
        np.save(x, inputs)
    result = subprocess.run(
        [sys.executable, "-c", SERVER, json.dumps(paths)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert "without keras_norms" in result.stdout, result.stderr[-2000:]
    return {path: np.load(y) for path, _, y in paths}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(rows.PLAIN, id="plain"),
        pytest.param(rows.VARIANTS, id="variants", marks=pytest.mark.main_leg),
    ],
)
def test_exported_models_serve(names, tmp_path):
    """Plain rows are trained on two replicas, variants are called in training."""
    cases, expected = {}, {}
    for name in names:
        row = catalog.ROWS[name]
        batch = np.random.default_rng(5).normal(1.0, 2.0, row.shape).astype(np.float32)
        if names is rows.PLAIN:
            with strategies.mirrored(2).scope():
                model = models.trained(row, batch)
        else:
            model = models.functional(row.make(), row.shape)
            model(batch, training=True)
        for way, write in writers().items():
            path = str(tmp_path / f"{name}_{way}")
            write(model, path)
            cases[path], expected[path] = batch, np.asarray(model(batch, training=False))
            graph = pathlib.Path(path, "saved_model.pb").read_bytes()
            if way == "export":
                assert b"KerasNorms>" not in graph and b"Collective" not in graph, path
    for path, y in served(cases, tmp_path).items():
        np.testing.assert_allclose(y, expected[path], atol=1e-6, err_msg=path)
