"""Exported models run elsewhere: as few operations as with stock Keras, and the same outputs."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from benchmarks import exported
from keras_norms.keras_api import IS_KERAS_3, keras

pytestmark = [
    # The converter says so with a representative dataset as well.
    pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning"),
    # Keras, of every layer that it leaves in floating point.
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning"),
]
ONLY_KERAS_3 = pytest.mark.main_leg


@pytest.fixture(scope="module")
def conv():
    """A network, inputs, and what it predicts for them, after native functions were traced."""
    model, x = exported.trained("Conv2D, norm", "BatchNormalization")
    return model, x, model.predict(x, verbose=0)


def spec(model):
    return tf.TensorSpec((None, *model.input_shape[1:]))


def assert_close(y, expected):
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        "Conv2D, norm",
        pytest.param("Dense, norm", marks=pytest.mark.main_leg),
        pytest.param("residual block", marks=pytest.mark.main_leg),
    ],
)
def test_converters_fold_as_much_as_of_stock_layers(network):
    operations = []
    for layer in ("stock", "BatchNormalization"):
        model, x = exported.trained(network, layer)
        y = np.asarray(model(x, training=False))
        lite, portable = exported.lite_model(model), exported.onnx_model(model)
        assert_close(exported.lite_outputs(lite, x), y)
        assert_close(exported.onnx_outputs(portable, x), y)
        operations.append((exported.lite_operations(lite), exported.onnx_operations(portable)))
    stock, ours = operations
    assert ours == stock


@pytest.mark.main_leg
def test_fused_models_are_written_as_those_with_activations_apart(tmp_path):
    model, x = exported.trained("residual block", "BatchNormalization")
    fused, report = keras_norms.fuse_activations(model)
    assert len(report.changed) == 2
    y = np.asarray(model(x, training=False))
    operations = []
    for each in (model, fused):
        lite, portable = exported.lite_model(each), exported.onnx_model(each)
        assert_close(exported.lite_outputs(lite, x), y)
        assert_close(exported.onnx_outputs(portable, x), y)
        operations.append((exported.lite_operations(lite), exported.onnx_operations(portable)))
    assert operations[0] == operations[1]
    fused.export(str(tmp_path), verbose=False)
    assert b"KerasNorms" not in (tmp_path / "saved_model.pb").read_bytes()
    serve = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    (served,) = serve(tf.constant(x)).values()
    assert_close(served, y)


@pytest.mark.main_leg
def test_int8_is_as_exact_as_with_stock_layers():
    operations, errors = [], []
    for layer in ("stock", "BatchNormalization"):
        model, x = exported.trained("Dense, norm", layer)
        content = exported.lite_model(model, x[:64])
        y = exported.lite_outputs(content, x)
        operations.append(exported.lite_operations(content))
        errors.append(exported.relative_error(y, np.asarray(model(x, training=False))))
    assert operations == [["FULLY_CONNECTED"]] * 2
    assert errors[1] <= 1.05 * errors[0] and errors[0] < 0.05


@pytest.mark.main_leg
@pytest.mark.parametrize("layer", list(exported.LAYERS)[2:])
def test_other_layers_are_folded_too(layer):
    model, x = exported.trained("Dense, norm", layer)
    content = exported.lite_model(model)
    assert exported.lite_operations(content) == ["FULLY_CONNECTED"]
    assert_close(exported.lite_outputs(content, x), np.asarray(model(x, training=False)))


@pytest.mark.main_leg
def test_centered_files_subtract_the_mean():
    model, x = exported.trained("Dense, norm", "BatchNormalization")
    with keras_norms.exporting(centered=True):
        content = exported.lite_model(model)
    assert "SUB" in exported.lite_operations(content)
    assert_close(exported.lite_outputs(content, x), np.asarray(model(x, training=False)))


def test_a_function_that_was_traced_in_the_scope_is_converted(conv):
    model, x, y = conv
    with keras_norms.exporting():
        function = tf.function(model).get_concrete_function(spec(model))
    content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    assert exported.lite_operations(content) == ["CONV_2D"]
    assert_close(exported.lite_outputs(content, x), y)


def test_a_saved_model_is_converted(conv, tmp_path):
    model, x, y = conv
    model.export(str(tmp_path), **({"verbose": False} if IS_KERAS_3 else {}))
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    assert exported.lite_operations(content) == ["CONV_2D"]
    assert_close(exported.lite_outputs(content, x), y)


@ONLY_KERAS_3
def test_keras_writes_for_every_runtime(conv, tmp_path):
    model, x, y = conv
    ways = {"onnx": exported.onnx_outputs, "litert": exported.lite_outputs}
    for way, outputs in ways.items():
        path = tmp_path / f"model.{'tflite' if way == 'litert' else way}"
        model.export(str(path), format=way, verbose=False)
        assert b"KerasNorms" not in path.read_bytes()
        assert_close(outputs(path.read_bytes(), x), y)


def dense():
    """A network of dense layers after an epoch of training, and inputs."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16), keras_norms.BatchNormalization(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    x = np.random.default_rng(0).normal(1.0, 2.0, (64, 8)).astype(np.float32)
    train(model, x)
    return model, x


def train(model, x):
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(x, x[:, :4], verbose=0)


def outputs_elsewhere(model, x, tmp_path):
    """Of a saved file and of an ONNX model."""
    model.save(tmp_path / "model.keras")
    yield keras.models.load_model(tmp_path / "model.keras").predict(x, verbose=0)
    model.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
    yield exported.onnx_outputs((tmp_path / "model.onnx").read_bytes(), x)


@ONLY_KERAS_3
def test_quantized_layers_around_ours(tmp_path):
    model, x = dense()
    norm = model.layers[1].get_weights()
    exact = model.predict(x, verbose=0)
    model.quantize("int8")
    y = model.predict(x, verbose=0)
    assert 0.0 < exported.relative_error(y, exact) < 0.05
    for ours, before in zip(model.layers[1].get_weights(), norm, strict=True):
        np.testing.assert_array_equal(ours, before)
    for elsewhere in outputs_elsewhere(model, x, tmp_path):
        # A value between two steps of a quantized layer may be rounded to either.
        assert exported.relative_error(elsewhere, y) < 0.01


@ONLY_KERAS_3
def test_lora_layers_around_ours(tmp_path):
    model, x = dense()
    model.layers[0].enable_lora(2)
    kernel, lora = model.layers[0]._kernel.numpy(), model.layers[0].lora_kernel_b.numpy()
    mean = model.layers[1].moving_mean.numpy()
    train(model, x)
    np.testing.assert_array_equal(model.layers[0]._kernel.numpy(), kernel)
    assert np.any(model.layers[0].lora_kernel_b.numpy() != lora)
    assert np.all(model.layers[1].moving_mean.numpy() != mean)
    y = model.predict(x, verbose=0)
    for elsewhere in outputs_elsewhere(model, x, tmp_path):
        assert_close(elsewhere, y)
    content = exported.lite_model(model)
    assert exported.lite_operations(content) == ["FULLY_CONNECTED"] * 2
    assert_close(exported.lite_outputs(content, x), y)
