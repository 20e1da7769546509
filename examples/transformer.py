"""The blocks of a small Transformer, with any normalization, as functions on Keras tensors.

Masks come from the token embedding and reach attention, normalization and pooling by themselves.
Pre-Norm normalizes what a sublayer receives, Post-Norm the sum of it and what the sublayer returns.
"""

from images import quiet

import keras_norms

with quiet():
    import tensorflow as tf

keras = tf.keras
layers = keras.layers


class Positions(layers.Layer):
    """Adds a trained vector to each position, and leaves the mask as it is."""

    def __init__(self, most, **kwargs):
        super().__init__(**kwargs)
        self.most = most
        self.supports_masking = True

    def build(self, input_shape):
        shape = (self.most, input_shape[-1])
        self.vectors = self.add_weight(
            name="vectors", shape=shape, initializer=keras.initializers.RandomNormal(stddev=0.02)
        )
        self.built = True

    def call(self, inputs):
        return inputs + tf.convert_to_tensor(self.vectors)[: tf.shape(inputs)[1]]


NORMALIZATIONS = {
    "LN": lambda **_: layers.LayerNormalization(epsilon=1e-5),
    "BN": lambda **_: keras_norms.BatchNormalization(momentum=0.95, epsilon=1e-5),
    "RBN": lambda **weights: keras_norms.RegularizedBatchNormalization(**weights),
}


def embedded(tokens, vocabulary, width, most, dropout):
    """Vectors of tokens and their positions; token 0 is padding."""
    x = layers.Embedding(vocabulary, width, mask_zero=True)(tokens)
    return layers.Dropout(dropout)(Positions(most)(x))


def residual(x, sublayer, order, normalized, dropout):
    """A sublayer with its shortcut; `order` is "pre" or "post", `normalized` makes a layer."""
    if order == "pre":
        return layers.Add()([x, layers.Dropout(dropout)(sublayer(normalized()(x)))])
    return normalized()(layers.Add()([x, layers.Dropout(dropout)(sublayer(x))]))


def attention(heads, width, memory=None, causal=False):
    """To itself, or to a memory."""
    layer = layers.MultiHeadAttention(heads, width // heads)

    def attend(x):
        other = x if memory is None else memory
        return layer(x, other, use_causal_mask=causal)

    return attend


def feed_forward(hidden, width):
    first, second = layers.Dense(hidden, activation="relu"), layers.Dense(width)
    return lambda x: second(first(x))


def encoder(x, blocks, heads, order, normalized, dropout):
    """Blocks of attention and feed-forward layers, and with Pre-Norm LayerNorm at the end."""
    width = x.shape[-1]
    for _ in range(blocks):
        x = residual(x, attention(heads, width), order, normalized, dropout)
        x = residual(x, feed_forward(2 * width, width), order, normalized, dropout)
    return layers.LayerNormalization(epsilon=1e-5)(x) if order == "pre" else x


def decoder(x, memory, blocks, heads, order, normalized, dropout):
    """Blocks of causal attention, attention to the memory, and feed-forward layers."""
    width = x.shape[-1]
    for _ in range(blocks):
        x = residual(x, attention(heads, width, causal=True), order, normalized, dropout)
        x = residual(x, attention(heads, width, memory), order, normalized, dropout)
        x = residual(x, feed_forward(2 * width, width), order, normalized, dropout)
    return layers.LayerNormalization(epsilon=1e-5)(x) if order == "pre" else x
