"""Networks with a normalization, converted for other runtimes: what they run and how well.

The converters' packages are imported where they are used, which are those of the extra `deploy`.
"""

import contextlib
import io
import pathlib
import re
import tempfile

import numpy as np
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras

SAMPLES = 256
OF_IMAGES, OF_TEXTS, OF_ROWS = (16, 16, 8), (32, 8), (32,)
L = keras.layers


def network(shape, layers):
    """A sequential model; `layers(norm)` lists its layers."""
    return lambda norm: keras.Sequential([keras.Input(shape), *layers(norm)])


def residual_block(norm):
    inputs = keras.Input(OF_IMAGES)
    x = L.ReLU()(norm()(L.Conv2D(8, 3, padding="same", use_bias=False)(inputs)))
    x = norm()(L.Conv2D(8, 3, padding="same", use_bias=False)(x))
    return keras.Model(inputs, L.ReLU()(L.Add()([x, inputs])))


# Networks by name, as functions of a function that makes a normalization.
NETWORKS = {
    "Conv2D, norm": network(OF_IMAGES, lambda norm: [L.Conv2D(8, 3), norm()]),
    "DepthwiseConv2D, norm": network(OF_IMAGES, lambda norm: [L.DepthwiseConv2D(3), norm()]),
    "SeparableConv2D, norm": network(OF_IMAGES, lambda norm: [L.SeparableConv2D(8, 3), norm()]),
    "Conv1D, norm": network(OF_TEXTS, lambda norm: [L.Conv1D(8, 3), norm()]),
    "Conv2DTranspose, norm": network(OF_IMAGES, lambda norm: [L.Conv2DTranspose(8, 3), norm()]),
    "Dense, norm": network(OF_ROWS, lambda norm: [L.Dense(16), norm()]),
    "norm, ReLU, Conv2D": network(OF_IMAGES, lambda norm: [norm(), L.ReLU(), L.Conv2D(8, 3)]),
    "residual block": residual_block,
}
TWO_CHUNKS = dict(num_chunks=2)
# Layers by name, as the class and its options. The others infer as these do.
LAYERS = {
    "stock": (L.BatchNormalization, {}),
    "BatchNormalization": (keras_norms.BatchNormalization, {}),
    "SyncBatchNormalization": (keras_norms.SyncBatchNormalization, {}),
    "BatchRenormalization": (keras_norms.BatchRenormalization, dict(r_max=2.0, d_max=1.5)),
    "AdaptiveBatchNormalization": (keras_norms.AdaptiveBatchNormalization, {}),
    "RegularizedBatchNormalization": (keras_norms.RegularizedBatchNormalization, {}),
    "RangeBatchNormalization": (keras_norms.RangeBatchNormalization, TWO_CHUNKS),
    "BatchlessNormalization": (keras_norms.BatchlessNormalization, {}),
}


def trained(name, layer):
    """A network with the statistics of its inputs, and those; the same weights for each layer."""
    kind, options = LAYERS[layer]
    if kind is not keras_norms.BatchlessNormalization:
        options = dict(momentum=0.1, **options)

    def norm():
        gamma = keras.initializers.RandomUniform(0.5, 1.5, seed=1)
        beta = keras.initializers.RandomUniform(-1.0, 1.0, seed=2)
        return kind(gamma_initializer=gamma, beta_initializer=beta, **options)

    keras.utils.set_random_seed(0)
    model = NETWORKS[name](norm)
    shape = (SAMPLES, *model.input_shape[1:])
    x = np.random.default_rng(0).normal(1.0, 2.0, shape).astype(np.float32)
    if kind is keras_norms.BatchlessNormalization:
        keras_norms.initialize_statistics(model, x, verbose=0)
    else:
        for _ in range(4):
            model(x, training=True)
    return model, x


def lite_model(model, x=None):
    """The bytes of a LiteRT model: in float32, or all in int8, with the ranges that `x` shows."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if x is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[np.newaxis]] for sample in x)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with contextlib.redirect_stdout(io.StringIO()):  # Keras says where it put a file in between.
        return converter.convert()


def lite_operations(content):
    """The names of the operations of a LiteRT model."""
    listing = io.StringIO()
    with contextlib.redirect_stdout(listing):
        tf.lite.experimental.Analyzer.analyze(model_content=content)
    return re.findall(r"^\s*Op#\d+ (\w+)\(", listing.getvalue(), re.MULTILINE)


def lite_outputs(content, x):
    """What a LiteRT model predicts, in real numbers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    step, zero = given["quantization"]
    if step:
        x = np.clip(np.round(x / step) + zero, -128, 127).astype(np.int8)
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(result["index"])
    step, zero = result["quantization"]
    return (y.astype(np.float64) - zero) * step if step else y


def onnx_model(model):
    """The bytes of an ONNX model."""
    import tf2onnx

    function = tf.function(lambda x: model(x, training=False))
    signature = [tf.TensorSpec((None, *model.input_shape[1:]))]
    return tf2onnx.convert.from_function(function, signature)[0].SerializeToString()


def onnx_operations(content):
    """The names of the operations that ONNX Runtime runs for a model."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder, "optimized.onnx"))
        _session(content, path)
        return [node.op_type for node in onnx.load(path).graph.node]


def onnx_outputs(content, x):
    """What ONNX Runtime predicts."""
    session = _session(content)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def _session(content, optimized=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # It warns that an optimized model is for this machine.
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(content, options)


def relative_error(y, expected):
    """The root mean square of the error, in standard deviations of what is expected."""
    return float(np.sqrt(np.mean(np.square(y - expected))) / np.std(expected))
