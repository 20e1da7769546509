"""Files: what is saved is loaded bit by bit, and serves where keras_norms is not installed."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.keras_api import IS_KERAS_3, keras
from tests import catalog, strategies
from tests.conformance import models


def test_keras_file(row, batch, tmp_path):
    model = models.trained(row, batch)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for expected, actual in zip(models.arrays(model), models.arrays(loaded), strict=True):
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(loaded(batch), model(batch))
    assert loaded.get_layer("norm").get_config() == model.get_layer("norm").get_config()


def test_training_goes_on_after_loading(row, batch, tmp_path):
    model = models.trained(row, batch)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    targets = np.ones((len(batch), 2), np.float32)
    for one in (model, loaded):
        one.fit(batch, targets, batch_size=len(batch), epochs=2, shuffle=False, verbose=0)
    for expected, actual in zip(models.arrays(model), models.arrays(loaded), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_weights_file(row, batch, tmp_path):
    model = models.trained(row, batch)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = models.functional(row.make(name="norm"), row.shape)
    fresh.load_weights(tmp_path / "model.weights.h5")
    for expected, actual in zip(models.arrays(model), models.arrays(fresh), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("replicas", [1, 2])
def test_checkpoint_into_any_number_of_replicas(row, batch, tmp_path, replicas):
    model = models.trained(row, batch)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    with strategies.mirrored(replicas).scope():
        fresh = models.functional(row.make(name="norm"), row.shape)
        tf.train.Checkpoint(model=fresh).restore(path).assert_existing_objects_matched()
    for expected, actual in zip(models.arrays(model), models.arrays(fresh), strict=True):
        np.testing.assert_array_equal(actual, expected)


LOADER = """
import json, sys
sys.modules["keras_norms"] = None
import numpy as np, tensorflow as tf
for case in json.loads(sys.argv[1]):
    loaded = tf.saved_model.load(case["path"])
    x = np.load(case["input"])
    serve = getattr(loaded, "serve", None)
    if serve is None:
        (y,) = loaded.signatures["serving_default"](tf.constant(x)).values()
    else:
        y = serve(tf.constant(x))
    np.save(case["output"], y)
try:
    import keras_norms
except ImportError:
    print("keras_norms is not there")
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Predictions of every exported model, from one process without keras_norms."""
    folder = tmp_path_factory.mktemp("served")
    cases = {}
    for name, row in catalog.ROWS.items():
        batch = np.random.default_rng(5).normal(1.0, 2.0, row.shape).astype(np.float32)
        with strategies.mirrored(2).scope():
            model = models.trained(row, batch)
        writers = {"export": lambda path, model=model: model.export(path, **quiet())}
        if not IS_KERAS_3:
            # This also traces the training function into the file.
            writers["save"] = lambda path, model=model: model.save(path)
        np.save(folder / f"{name}.npy", batch)
        for way, write in writers.items():
            path = str(folder / f"{name}_{way}")
            write(path)
            cases[name, way] = dict(
                path=path, input=str(folder / f"{name}.npy"), output=path + "_y.npy"
            )
        cases[name, "expected"] = np.asarray(model(batch, training=False))
    listed = [case for case in cases.values() if isinstance(case, dict)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps(listed)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    assert "keras_norms is not there" in result.stdout, result.stderr[-2000:]
    return cases


def quiet():
    return {"verbose": False} if IS_KERAS_3 else {}


@pytest.mark.parametrize("name", catalog.ROWS)
@pytest.mark.parametrize("way", ["export"] if IS_KERAS_3 else ["export", "save"])
def test_serves_without_keras_norms(served, name, way):
    case = served[name, way]
    np.testing.assert_allclose(np.load(case["output"]), served[name, "expected"], atol=1e-6)
    assert pathlib.Path(case["path"], "saved_model.pb").exists()


@pytest.mark.parametrize("name", catalog.ROWS)
def test_exported_graph_has_stock_operations_only(served, name):
    graph = tf.saved_model.load(served[name, "export"]["path"]).signatures["serving_default"].graph
    functions = graph.as_graph_def().library.function
    names = {node.op for function in functions for node in function.node_def}
    assert names and not [name for name in names if "KerasNorms" in name or "Collective" in name]
