"""The GPU kernels through TensorFlow give what plain TensorFlow gives on the CPU."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms

pytestmark = pytest.mark.gpu
RTOL = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


def training_step(x, mask, axis, dtype, jit_compile, activation=None, residual=None):
    layer = keras_norms.BatchNormalization(
        axis=axis,
        activation=activation,
        dtype=f"mixed_{dtype}" if dtype.endswith("16") else dtype,
    )
    layer.build(x.shape)

    @tf.function(jit_compile=jit_compile)
    def step(*inputs):
        x, *added = inputs
        given = dict(residual=added[0]) if added else dict(mask=mask)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(x, training=True, **given)
            loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float64)))
        return [y, *tape.gradient(loss, [*inputs, *layer.trainable_variables])]

    inputs = [x] if residual is None else [x, residual]
    results = [np.array(value).astype(float) for value in step(*inputs)]
    return [*results, *(np.array(value).astype(float) for value in layer.get_weights())]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "jit"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("axis", [-1, 1], ids=["last", "first"])
@pytest.mark.parametrize("dtype", RTOL)
def test_training_step_on_gpu(native, dtype, axis, masked, jit_compile):
    assert "GPU" in native.devices
    generator = np.random.default_rng(7)
    x = tf.cast(generator.normal(3.0, 2.0, (16, 12, 9, 12)), dtype)
    mask = tf.constant(generator.random((16,)) < 0.7) if masked else None
    with tf.device("CPU:0"), keras_norms.implementation("reference"):
        expected = training_step(x, mask, axis, dtype, jit_compile=False)
    with tf.device("GPU:0"), keras_norms.implementation("native"):
        actual = training_step(x, mask, axis, dtype, jit_compile)
    for value, exact in zip(actual, expected, strict=True):
        scale = np.max(np.abs(exact))
        np.testing.assert_allclose(value, exact, rtol=RTOL[dtype], atol=RTOL[dtype] * scale)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "jit"])
@pytest.mark.parametrize("has_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("axis", [-1, 1], ids=["last", "first"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])  # Others round what a ReLU lets through.
def test_fused_training_step_on_gpu(native, dtype, axis, has_residual, jit_compile):
    generator = np.random.default_rng(8)
    x, residual = (tf.cast(generator.normal(m, 2.0, (8, 6, 5, 6)), dtype) for m in (3.0, 0.0))
    options = dict(activation="relu", residual=residual if has_residual else None)
    with tf.device("CPU:0"), keras_norms.implementation("reference"):
        expected = training_step(x, None, axis, dtype, jit_compile=False, **options)
    with tf.device("GPU:0"), keras_norms.implementation("native"):
        actual = training_step(x, None, axis, dtype, jit_compile, **options)
    for value, exact in zip(actual, expected, strict=True):
        scale = np.max(np.abs(exact))
        np.testing.assert_allclose(value, exact, rtol=RTOL[dtype], atol=RTOL[dtype] * scale)
