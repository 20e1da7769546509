"""Exported models hold stock operations only, whatever the layers trained on before.

A stand-in for the compiled kernels notes when it is traced, so these hold without the library.
"""

import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.ops import choice, reference
from keras_norms.ops.exporting import is_exporting

QUIET = {"verbose": False} if IS_KERAS_3 else {}


def archive(model, path):
    exporter = keras.export.ExportArchive()
    exporter.track(model)
    call = model.__call__ if IS_KERAS_3 else model.call
    exporter.add_endpoint("serve", call, input_signature=[tf.TensorSpec((None, 5))])
    exporter.write_out(path, **QUIET)


def saved_model(model, path):
    # With the gradients of custom gradients, which are functions to trace too.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(model, path, options=options)


def lite(model, path):
    tf.io.write_file(path + "/model", tf.lite.TFLiteConverter.from_keras_model(model).convert())


WRITERS = {
    "export": lambda model, path: model.export(path, **QUIET),
    "archive": archive,
    "saved_model": saved_model,
    "lite": lite,
}
if not IS_KERAS_3:
    # Also writes functions that train, traced again.
    WRITERS["save"] = lambda model, path: model.save(path)


@pytest.fixture(params=["one", pytest.param("mirrored", marks=pytest.mark.main_leg)])
def strategy(request):
    cpu = tf.config.list_logical_devices("CPU")[0].name
    one = tf.distribute.get_strategy()
    return one if request.param == "one" else tf.distribute.MirroredStrategy([cpu])


def trained(strategy):
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.layers.Input((5,)),
                keras_norms.BatchNormalization(),
                keras.layers.Dense(2),
                keras_norms.SyncBatchNormalization(),
            ]
        )
        model.compile("sgd", "mse")
    x, y = np.ones((8, 5), np.float32), np.ones((8, 2), np.float32)
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    return model


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_writing_traces_the_reference(monkeypatch, tmp_path, strategy, writer):
    traced = []

    def noting(name):
        def kernel(*args, **options):
            traced.append(name)
            results = getattr(reference, name)(*args, **options)
            # An operation that layers have no other use for.
            return tf.nest.map_structure(lambda t: tf.debugging.check_numerics(t, name), results)

        return kernel

    names = ("moments", "blend")
    kernels = {name: noting(name) for name in names}
    kernels |= {"sums": reference.sums, "has_gradient": reference.has_gradient}
    monkeypatch.setattr(choice, "native", types.SimpleNamespace(**kernels))
    monkeypatch.setattr(choice, "native_status", lambda: choice.NativeStatus(True, "here"))
    model = trained(strategy)
    assert set(traced) == set(names)
    traced.clear()
    writer(model, str(tmp_path / "model"))
    assert not traced
    files = [path for path in pathlib.Path(tmp_path, "model").rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"CheckNumerics" in path.read_bytes()]
    assert not is_exporting()


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_files_hold_no_operation_of_the_library(native, tmp_path, writer):
    writer(trained(tf.distribute.get_strategy()), str(tmp_path / "model"))
    files = [path for path in pathlib.Path(tmp_path, "model").rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"KerasNorms>" in path.read_bytes()]


def test_functions_that_run_replicas_hold_no_operation_of_the_library(native, tmp_path):
    """They are traced by threads of the strategy, which do not know what for."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    module = tf.Module()
    module.model = trained(strategy)

    @tf.function(input_signature=[tf.TensorSpec((None, 5))])
    def serve(x):
        return strategy.run(lambda q: module.model(q, training=False), args=(x,))

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "model"))
    assert b"KerasNorms>" not in (tmp_path / "model" / "saved_model.pb").read_bytes()
