"""The small convolutional network of the study, with any normalization or none."""

import numpy as np
import tensorflow as tf

from experiments.range_norms.protocol import CLASSES

keras = tf.keras


def network(contender, shape, stages, seed):
    """Convolutions, each with a normalization and a ReLU, then the mean over all positions.

    Args:
        contender: its `layer` makes one normalization layer, or returns None for none.
        shape: of an image.
        stages: channels and stride of each convolution.
        seed: of the weights, which are the same for every normalization.
    """
    layers = keras.layers
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=100).tolist())
    x = inputs = layers.Input(shape)
    for channels, stride in stages:
        initializer = keras.initializers.HeNormal(seed=next(seeds))
        options = dict(padding="same", use_bias=False, kernel_initializer=initializer)
        x = layers.Conv2D(channels, 3, stride, **options)(x)
        normalization = contender.layer() or layers.Identity()
        pair = [normalization, layers.ReLU()]
        for layer in reversed(pair) if contender.after_relu else pair:
            x = layer(x)
    x = layers.GlobalAveragePooling2D()(x)
    initializer = keras.initializers.GlorotUniform(seed=next(seeds))
    return keras.Model(inputs, layers.Dense(CLASSES, kernel_initializer=initializer)(x))
