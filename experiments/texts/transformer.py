"""The blocks of a small Transformer, with any normalization, as functions on Keras tensors.

Keras passes the mask of the token embedding on to attention, normalization and pooling.
Pre-Norm normalizes what a sublayer receives, Post-Norm the sum of it and what the sublayer returns.
"""

import dataclasses

import tensorflow as tf

import keras_norms

keras = tf.keras
layers = keras.layers


@dataclasses.dataclass(frozen=True)
class Sizes:
    vocabulary: int
    most_tokens: int
    width: int
    heads: int
    blocks: int
    dropout: float


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


class Fresh(layers.Layer):
    """The same values in a new tensor, with the mask.

    Keras 3's `MultiHeadAttention` removes the masks of its input tensors, and later layers need
    them.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return tf.identity(inputs)


NORMALIZATIONS = {
    "LN": lambda **_: layers.LayerNormalization(epsilon=1e-5),
    "BN": lambda **_: keras_norms.BatchNormalization(momentum=0.95, epsilon=1e-5),
    "RBN": lambda **weights: keras_norms.RegularizedBatchNormalization(**weights),
}


def embedded(tokens, sizes):
    """Vectors of tokens and their positions; token 0 is padding."""
    x = layers.Embedding(sizes.vocabulary, sizes.width, mask_zero=True)(tokens)
    return layers.Dropout(sizes.dropout)(Positions(sizes.most_tokens)(x))


def encoder(x, sizes, order, normalized):
    """Blocks of attention and feed-forward layers, and with Pre-Norm LayerNorm at the end.

    `order` is "pre" or "post", `normalized` makes a layer.
    """
    for _ in range(sizes.blocks):
        for sublayer in (attention(sizes), feed_forward(sizes)):
            x = residual(x, sublayer, order, normalized, sizes.dropout)
    return normalized_at_end(x, order)


def decoder(x, memory, sizes, order, normalized):
    """Blocks of causal attention, attention to the memory, and feed-forward layers."""
    for _ in range(sizes.blocks):
        to_itself, to_memory = attention(sizes, causal=True), attention(sizes, memory)
        for sublayer in (to_itself, to_memory, feed_forward(sizes)):
            x = residual(x, sublayer, order, normalized, sizes.dropout)
    return normalized_at_end(x, order)


def residual(x, sublayer, order, normalized, dropout):
    """A sublayer with its shortcut."""
    if order == "pre":
        return layers.Add()([x, layers.Dropout(dropout)(sublayer(normalized()(x)))])
    return normalized()(layers.Add()([x, layers.Dropout(dropout)(sublayer(x))]))


def normalized_at_end(x, order):
    return layers.LayerNormalization(epsilon=1e-5)(x) if order == "pre" else x


def attention(sizes, memory=None, causal=False):
    """To itself, or to a memory."""
    layer = layers.MultiHeadAttention(sizes.heads, sizes.width // sizes.heads)

    def attend(x):
        query = Fresh()(x)
        other = query if memory is None else Fresh()(memory)
        return layer(query, other, use_causal_mask=causal)

    return attend


def feed_forward(sizes):
    first, second = layers.Dense(2 * sizes.width, activation="relu"), layers.Dense(sizes.width)
    return lambda x: second(first(x))
