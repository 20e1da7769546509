"""The ResNet of the study, with any normalization."""

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.small_batches.protocol import CLASSES, SLOW

keras = tf.keras


def normalization(method, setting, steps, momentum):
    """Makes one layer."""
    shared = dict(momentum=momentum, virtual_batch_size=setting.group)
    ramp = keras_norms.schedules.LinearRamp.of_total
    return {
        "BN": lambda: keras_norms.BatchNormalization(**shared),
        "BRN": lambda: keras_norms.BatchRenormalization(
            r_max=ramp(steps, 0.04, 0.30, 1.0, 3.0),
            d_max=ramp(steps, 0.04, 0.19, 0.0, 5.0),
            **shared,
        ),
        "GroupNorm": lambda: keras.layers.GroupNormalization(groups=8),
        "Batchless": lambda: batchless(1.0),
        "Batchless-slow": lambda: batchless(SLOW),
    }[method]


def batchless(multiplier):
    return keras_norms.BatchlessNormalization(
        parametrization="log", learning_rate_multiplier=multiplier
    )


def network(normalized, seed, size=32, widths=(16, 32, 64)):
    """`normalized` makes a layer. The other weights depend on the seed alone.

    `size` is the height and width of the images, `widths` are the channels of the stages.
    """
    layers = keras.layers
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=100).tolist())

    def convolution(x, channels, size, stride=1):
        initializer = keras.initializers.HeNormal(seed=next(seeds))
        options = dict(padding="same", use_bias=False, kernel_initializer=initializer)
        x = layers.Conv2D(channels, size, stride, **options)(x)
        return normalized()(x)

    inputs = layers.Input((size, size, 3))
    x = layers.Rescaling(1 / 64, -2)(inputs)
    x = layers.ReLU()(convolution(x, widths[0], 3, 2))
    for channels, stride in zip(widths, (1, 2, 2), strict=True):
        y = layers.ReLU()(convolution(x, channels, 3, stride))
        y = convolution(y, channels, 3)
        shortcut = x if stride == 1 else convolution(x, channels, 1, stride)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.GlobalAveragePooling2D()(x)
    initializer = keras.initializers.GlorotUniform(seed=next(seeds))
    return keras.Model(inputs, layers.Dense(CLASSES, kernel_initializer=initializer)(x))
