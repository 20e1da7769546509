"""Forward-mode differentiation, which asks for the gradients of single operations."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.ops import kernels
from keras_norms.ops import native as operations
from keras_norms.ops.operands import Operands

WEIGHTS = [1.0, 0.0, 0.5, 2.0, 1.0, 1.0]
WEIGHTED = dict(weights=tf.constant(WEIGHTS, tf.float64, [6, 1]), axis=1)


def kernel_functions():
    """Each kernel with every operand that it may be given, as a function of `x`."""

    def moments(x, **options):
        _, mean, m2 = kernels.moments(x, **options)
        return tf.concat([mean, m2], 0)

    def sums(x, **options):
        vector = tf.reduce_mean(tf.square(x), 0) / 4.0
        pair = kernels.sums(u=tf.sin(x), v=x, center=vector, **options)
        own = kernels.sums(v=x, center=vector, scale=vector, shift=vector, **options)
        return tf.concat([*pair, *own[:2], tf.reshape(own[2], [-1])], 0)

    def blend(x, **options):
        vector = tf.reduce_mean(tf.square(x), 0) / 4.0
        vectors = dict.fromkeys(("a", "b", "c", "center"), vector)
        return kernels.blend(u=tf.sin(x), v=x, **vectors, **options)

    yield functools.partial(moments, axis=1, segment_size=4)
    yield functools.partial(moments, **WEIGHTED)
    yield functools.partial(sums, **WEIGHTED, weighted=True)
    yield functools.partial(blend, **WEIGHTED, weighted=True)
    yield lambda x: tf.concat(keras_norms.ops.batch_moments(x)[:2], 0)


def layer_functions():
    """Output and losses of layers in training; with momentum 1 no call changes the next."""
    for name, options, weights in (
        ("BatchNormalization", {}, None),
        ("BatchNormalization", dict(virtual_batch_size=4), WEIGHTS),
        ("BatchRenormalization", dict(r_max=1.1, d_max=0.1), WEIGHTS),
        ("RegularizedBatchNormalization", dict(mean_weight=0.3, variance_weight=0.2), None),
        ("AdaptiveBatchNormalization", {}, WEIGHTS),
        ("RangeBatchNormalization", dict(num_chunks=2), [True, True, True, False, True, True]),
        ("RangeBatchNormalization", dict(num_chunks=1, virtual_batch_size=4), None),
        ("BatchlessNormalization", {}, WEIGHTS),
    ):
        kept = {} if name == "BatchlessNormalization" else dict(momentum=1.0)
        layer = getattr(keras_norms, name)(dtype="float64", **options, **kept)
        layer.build((None, 4))

        def training_output(x, layer=layer, mask=weights):
            y = layer(x, training=True, mask=None if mask is None else tf.constant(mask))
            return tf.concat([tf.reshape(y, [-1]), *(loss[tf.newaxis] for loss in layer.losses)], 0)

        yield training_output


@pytest.mark.each_tensorflow
@pytest.mark.parametrize(
    "implementation, functions, in_graph",
    [
        ("native", kernel_functions, False),
        ("native", kernel_functions, True),
        ("native", layer_functions, True),
        pytest.param("native", layer_functions, False, marks=pytest.mark.main_leg),
        pytest.param("reference", kernel_functions, True, marks=pytest.mark.main_leg),
        pytest.param("reference", layer_functions, False, marks=pytest.mark.main_leg),
    ],
    indirect=["implementation"],
)
def test_forward_mode_agrees_with_differences(implementation, functions, in_graph):
    """Of a function and, forward over reverse, of its gradient."""
    generator = np.random.default_rng(3)
    x = tf.constant(generator.normal(1.0, 2.0, size=(6, 4)))
    tangent = tf.constant(generator.normal(size=(6, 4)))
    step = 1e-6

    def value_and_gradient(function, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.sin(function(x))
            factors = np.arange(1.0, value.shape.num_elements() + 1.0).reshape(value.shape)
            target = tf.reduce_sum(value * factors)
        return value, tape.gradient(target, x)

    for function in functions():
        both = functools.partial(value_and_gradient, function)

        def products(x, both=both):
            with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
                values = both(x)
            return accumulator.jvp(values)

        actual = (tf.function(products, autograph=False) if in_graph else products)(x)
        pairs = zip(both(x + step * tangent), both(x - step * tangent), strict=True)
        for product, (above, below) in zip(actual, pairs, strict=True):
            difference = (above - below) / (2.0 * step)
            scale = np.max(np.abs(difference))
            np.testing.assert_allclose(product, difference, rtol=1e-6, atol=1e-7 * scale)


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
