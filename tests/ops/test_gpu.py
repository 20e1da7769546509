"""The GPU kernels through TensorFlow give what plain TensorFlow gives on the CPU."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="needs a GPU"),
]
RTOL = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


def training_step(x, mask, axis, dtype, jit_compile):
    layer = keras_norms.BatchNormalization(
        axis=axis, dtype=f"mixed_{dtype}" if dtype.endswith("16") else dtype
    )
    layer.build(x.shape)

    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
            loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float64)))
        return [y, *tape.gradient(loss, [x, *layer.trainable_variables])]

    results = [np.array(value).astype(float) for value in step(x)]
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
