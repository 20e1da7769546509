"""Forward-mode differentiation, which asks for the gradients of single operations."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.ops import kernels
from keras_norms.ops import native as operations
from keras_norms.ops.operands import Operands


@pytest.mark.parametrize("mask", [None, [True, True, False, True, True, True]])
def test_forward_mode_agrees_with_differences(mask):
    generator = np.random.default_rng(3)
    x = tf.constant(generator.normal(size=(6, 4)))
    tangent = tf.constant(generator.normal(size=(6, 4)))
    layer = keras_norms.BatchNormalization(dtype="float64")
    mask = None if mask is None else tf.constant(mask)
    layer(x)

    def training_output(x):
        return layer(x, training=True, mask=mask)

    with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
        y = training_output(x)
    step = 1e-6
    difference = training_output(x + step * tangent) - training_output(x - step * tangent)
    np.testing.assert_allclose(accumulator.jvp(y), difference / (2.0 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("segment_size", [None, 4])
def test_operations_have_the_gradients_of_the_kernels(native, segment_size):
    generator = np.random.default_rng(4)
    vectors = (2, 3) if segment_size else (3,)
    u, v = (tf.constant(generator.normal(size=(6, 3))) for _ in range(2))
    a, b, c, center = (tf.constant(generator.normal(size=vectors)) for _ in range(4))
    weights = tf.constant(generator.uniform(size=(6, 1)))
    options = dict(axis=1, segment_size=segment_size, weights=weights)

    def gradients(moments, sums, blend):
        inputs = [u, v, a, b, c, center]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            _, mean, m2 = moments(v, **options)
            sum_u, sum_uv = sums(u=u, v=v, center=center, weighted=True, **options)
            scaled = sums(u=u, v=v, center=center, scale=a, **options)
            deviations = sums(v=v, center=center, scale=b, shift=c, **options)
            y = blend(u=u, v=v, a=a, b=b, c=c, center=center, weighted=True, **options)
            values = (mean, m2, sum_u, sum_uv, *scaled, *deviations, y)
            target = sum(tf.reduce_sum(tf.sin(value)) for value in values)
        return tape.gradient(target, inputs)

    def taking_operands(operation):
        return lambda **operands: operation(Operands(**operands))

    faces = gradients(kernels.moments, kernels.sums, kernels.blend)
    single = gradients(
        operations.moments, *map(taking_operands, (operations.sums, operations.blend))
    )
    for actual, expected in zip(single, faces, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
