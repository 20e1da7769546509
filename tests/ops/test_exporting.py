"""Exported models hold stock operations only, whatever the layers trained on before.

A stand-in for the compiled kernels notes when it is traced, so these hold without the library.
"""

import pathlib
import threading
import types

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.ops import choice, reference
from keras_norms.ops.exporting import combines_vectors, is_exporting, traces_for_export
from keras_norms.statistics import normalize

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


@pytest.mark.parametrize(
    "writer, mirrored",
    [
        *((writer, False) for writer in WRITERS),
        *(pytest.param(w, True, marks=pytest.mark.main_leg) for w in ("export", "saved_model")),
    ],
)
def test_writing_traces_the_reference(monkeypatch, tmp_path, writer, mirrored):
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
    # The single operation of plain layers is no kernel of its own; the next test is for it.
    monkeypatch.setattr(normalize, "is_plain", lambda *arguments: False)
    one = tf.distribute.get_strategy()
    model = trained(tf.distribute.MirroredStrategy(["CPU:0"]) if mirrored else one)
    assert set(traced) == set(names)
    traced.clear()
    WRITERS[writer](model, str(tmp_path / "model"))
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


def operations(function):
    return [node.op for node in function.graph.as_graph_def().node]


def test_a_scope_traces_stock_operations_for_inference(native):
    model, spec = trained(tf.distribute.get_strategy()), tf.TensorSpec((None, 5))
    with keras_norms.exporting():
        inside = tf.function(model).get_concrete_function(spec)
    outside = tf.function(model).get_concrete_function(spec)
    assert "KerasNorms>Blend" in operations(outside)
    assert not [name for name in operations(inside) if name.startswith("KerasNorms>")]
    x = tf.random.normal((8, 5), 1.0, 2.0)
    np.testing.assert_allclose(inside(x), outside(x), rtol=1e-5, atol=1e-6)


def test_a_scope_ends_stays_in_its_thread_and_reaches_the_replicas():
    strategy, seen = tf.distribute.MirroredStrategy(["CPU:0"]), []
    with keras_norms.exporting(centered=True):
        with keras_norms.exporting():
            thread = threading.Thread(target=lambda: seen.append(traces_for_export()))
            thread.start()
            thread.join()
            strategy.run(lambda: seen.extend([traces_for_export(), combines_vectors()]))
        seen += [traces_for_export(), combines_vectors()]
    assert seen == [False, True, True, True, False]
    assert not traces_for_export()


def test_rejects_what_is_not_a_choice():
    rule = r"exporting: `centered` must be True or False. Received: centered='yes'."
    with pytest.raises(ValueError, match=rule):
        keras_norms.exporting("yes")


def far_from_zero(offset):
    """A layer, inputs with this mean over standard deviation, and y in float64."""
    rng = np.random.default_rng(3)
    stddev = rng.uniform(0.1, 10.0, 6)
    mean = offset * stddev * rng.choice([-1.0, 1.0], 6)
    x = rng.normal(mean, stddev, (512, 6)).astype(np.float32)
    layer = keras_norms.BatchNormalization()
    layer.build((None, 6))
    gamma, beta = rng.uniform(0.5, 1.5, 6), rng.normal(size=6)
    layer.set_weights([gamma, beta, mean, np.square(stddev)])
    gamma, beta, mean, variance = (w.astype(np.float64) for w in layer.get_weights())
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return layer, x, scale, scale * (x - mean) + beta


@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0, 1e4])
def test_a_file_rounds_a_product_a_vector_and_a_sum(offset):
    """Each by half a unit in the last place; the scale has an error too, which is that of y."""
    layer, x, scale, y = far_from_zero(offset)
    with keras_norms.exporting():
        exported = np.asarray(layer(x, training=False), np.float64)
    of_scale = 4.0 * np.abs(y - layer.get_weights()[1])
    size = 2.0 * np.abs(scale * x) + 3.0 * np.abs(y) + np.abs(layer.get_weights()[1]) + of_scale
    assert np.all(np.abs(exported - y) <= 2.0**-24 * size)


def test_a_centered_file_is_exact_at_any_offset():
    layer, x, _, y = far_from_zero(1e5)
    with keras_norms.exporting(centered=True):
        centered = np.asarray(layer(x, training=False))
    with keras_norms.exporting():
        combined = np.asarray(layer(x, training=False))
    assert np.max(np.abs(centered - y)) < 5e-6
    assert np.max(np.abs(combined - y)) > 1e-3


def test_masked_positions_are_read_as_the_mean_in_files_too():
    x, mask = np.ones((2, 3, 4), np.float32), np.array([[1, 1, 0], [1, 0, 0]], bool)
    x[~mask] = np.nan
    layer = keras_norms.BatchNormalization(beta_initializer=keras.initializers.Constant(0.25))
    with keras_norms.exporting():
        y = np.asarray(layer(x, mask=tf.constant(mask), training=False))
    np.testing.assert_array_equal(y[~mask], 0.25)
    assert np.all(np.isfinite(y))


def test_a_loaded_model_has_gradients(tmp_path):
    model = keras.Sequential([keras.layers.Input((6,)), far_from_zero(1.0)[0]])
    model.export(str(tmp_path), **QUIET)
    gamma, _, _, variance = model.get_weights()
    loaded, x = tf.saved_model.load(str(tmp_path)), tf.ones((2, 6))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = loaded.signatures["serving_default"](x)
    (dx,) = (tape.gradient(value, x) for value in y.values())
    expected = np.broadcast_to(gamma / np.sqrt(variance + model.layers[-1].epsilon), (2, 6))
    np.testing.assert_allclose(dx, expected, rtol=1e-5)
