"""Masks and sample weights as row weights that broadcast to the activation.

A mask names leading non-channel axes in order: for `(batch, time, channels)`
it may be `(batch,)` or `(batch, time)`, for `(batch, channels, time)` likewise.
Or it has the full rank with size 1 on the channel axes. The one exception: with
channels before other axes, Keras' own `Masking` makes a mask of shape
`inputs.shape[:-1]`, which covers the channels; it is taken where the shape can
not be read the first way, and counts then differ from channel to channel.
"""

import tensorflow as tf

from keras_norms.ops.layout import full_shape


def row_weights(mask, x, axes, owner="batch_moments"):
    """Returns weights of the rank of `x`, of full size on every non-channel axis.

    Args:
        mask: bool, or numbers that weigh positions, where those not above 0, NaN included, count
            as 0; None for no weights. Sizes of 1 broadcast.
        x: the activation, `(batch, ..., channels, ...)`.
        axes: the channel axes of `x`, sorted and non-negative.
        owner: who is named in an error.

    Raises:
        ValueError: if the shape of the mask cannot apply to `x`.
    """
    if mask is None:
        return None
    mask = tf.convert_to_tensor(mask)
    if not (mask.dtype.is_bool or mask.dtype.is_integer or mask.dtype.is_floating):
        raise ValueError(
            f"{owner}: a mask must hold bools or non-negative numbers. "
            f"Received: mask.dtype={mask.dtype.name}."
        )
    shape = _full_rank_shape(mask, x, axes, owner)
    weights = tf.cast(mask, tf.float64 if x.dtype == tf.float64 else tf.float32)
    if not mask.dtype.is_bool:
        # What is not above 0, NaN included, counts as 0, so that no weight spoils a statistic.
        weights = tf.where(weights > 0.0, weights, 0.0)
    if mask.shape.rank != x.shape.rank:
        weights = tf.reshape(weights, shape)
    target = full_shape(x)
    for a in axes:
        target[a] = shape[a]
    return tf.stop_gradient(tf.broadcast_to(weights, target))


def _full_rank_shape(mask, x, axes, owner):
    """The mask's shape spread over the axes of `x`, 1 where it says nothing."""
    rank, mask_rank = x.shape.rank, mask.shape.rank
    rows = [a for a in range(rank) if a not in axes]
    sizes, mask_sizes = x.shape.as_list(), mask.shape.as_list() if mask_rank is not None else []
    readings: list[list[int]] = []
    if mask_rank == rank and all(mask_sizes[a] == 1 for a in axes):
        readings.append(list(range(rank)))
    elif mask_rank is not None and 0 < mask_rank <= len(rows):
        readings.append(rows[:mask_rank])
    # Keras' Masking reduces the last axis; that covers channels when they are not last.
    if mask_rank == rank - 1 and axes[-1] != rank - 1:
        readings.append(list(range(rank - 1)))

    def applies(reading):
        pairs = [(mask_sizes[i], sizes[a]) for i, a in enumerate(reading) if a not in axes]
        channels = [(mask_sizes[i], sizes[a]) for i, a in enumerate(reading) if a in axes]
        return all(m in (None, 1, n) or n is None for m, n in pairs) and (
            mask_rank == rank or all(m == n for m, n in channels)
        )

    def is_exact(reading):
        return all(mask_sizes[i] == sizes[a] for i, a in enumerate(reading))

    readings = [reading for reading in readings if applies(reading)]
    if not readings:
        raise ValueError(
            f"{owner}: a mask must have the shape of the leading non-channel axes of its input, "
            "or the input's rank with 1 on the channel axes. "
            f"Received: mask.shape={mask.shape}, inputs.shape={x.shape}, channel axes={list(axes)}."
        )
    # With unknown sizes both readings may apply; sizes known to be equal decide.
    reading = next((r for r in readings if is_exact(r)), readings[0])
    dynamic = full_shape(mask)
    shape = [1] * rank
    for i, a in enumerate(reading):
        shape[a] = dynamic[i]
    return shape
