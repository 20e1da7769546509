"""Batch normalization by the range of a batch, for low precision."""

from keras_norms.layers.keras_2 import registered
from keras_norms.layers.range_base import RangeNormalizationBase


@registered
class RangeBatchNormalization(RangeNormalizationBase):
    """Normalizes each channel by mean and range of the batch, without squares or roots.

    Training, per channel, with the batch cut into K = `num_chunks` runs of consecutive values:

        deviation = mean over chunks k of C(n_k) * (max_k - min_k)
        scale     = deviation + epsilon
        y         = gamma * (x - mean) / scale + beta
        moving    = momentum * moving + (1 - momentum) * (mean, scale)

    Inference, and training with `trainable = False`:

        y         = gamma * (x - moving_mean) / moving_scale + beta

    `C(n)` makes an estimate of the standard deviation of the range of n values:

        "calibrated"   1 / E[range of n normal values]; y then has a standard deviation of 1
        "banner"       0.35 / 2 * (1 + sqrt(pi * ln 4)) / sqrt(2 * ln n), of Banner et al.
        "lightnorm"    1 / sqrt(2 * ln n), of LightNorm: y has a deviation of 0.55 to 0.67

    A channel's values are taken in the order of memory: by sample, then along the other axes.
    Where their number does not divide by K, the first chunks have one value more than the others,
    each with its own `C(n)`. The gradient is exact: through the mean, and through the first largest
    and the first smallest value of each chunk.

    Use it where squares are too large or too imprecise: activations in float16 up to 65504, whose
    sum of squares overflows, or a training that is to run on arithmetic of few bits. It reads the
    input as often as batch normalization and its gradient one time less. Not for
    data with outliers: a spike scales its whole chunk. More chunks soften that.

    With `synchronized` the replicas merge counts, means, and the average deviation over the chunks
    of all replicas: k replicas do what one does on the whole batch with k times the chunks, if
    their batches are of one size.

    With `accumulate_steps=N` the moving statistics get the mean of all values of N batches and the
    average deviation over all their chunks, which is what one batch of N times the size leaves with
    N times the chunks.

    A mask holds bools, or 0 and 1: extremes are taken over what counts, n is how many values of a
    chunk count, and chunks with less than two are left out. A batch, or virtual batch, without a
    chunk of two has no range: it is normalized as in inference, and changes no state.

    Args:
        axis: see `BatchNormalization`, as for all but these. Defaults to `-1`.
        momentum: Defaults to `0.99`.
        epsilon: added to the deviation, not to its square; at least 0. Defaults to `1e-5`.
        num_chunks: K, above 0. A chunk needs two values. Where the size of the batch is not known
            until the layer runs, a batch too small is cut into fewer chunks.
            Defaults to `8`.
        range_constant: `"calibrated"`, `"banner"` or `"lightnorm"`. Defaults to `"calibrated"`.
        **kwargs: all other arguments of `BatchNormalization` but `unbiased_moving_variance`;
            `moving_variance_initializer` is for the square of `moving_scale - epsilon`.

    Call arguments, shapes and weights: as `BatchNormalization`, but for masks, and with
    `moving_scale` in place of `moving_variance`.

    Raises:
        ValueError: as `BatchNormalization`; for a mask of floats, since an extreme cannot count in
            part; and for a batch that is known to have less than `2 * num_chunks` values per
            channel.

    Example:

    >>> layer = keras_norms.RangeBatchNormalization(num_chunks=2, range_constant="lightnorm")
    >>> x = tf.constant([[1.0], [2.0], [4.0], [9.0], [-3.0], [0.0], [5.0], [7.0]])
    >>> layer(x, training=True).numpy().T.round(3)
    array([[-0.393, -0.208,  0.162,  1.087, -1.133, -0.578,  0.347,  0.717]],
          dtype=float32)

    Reference:
        Banner et al., 2018, https://arxiv.org/abs/1805.11046; the constant of LightNorm is that of
        Noh et al., 2022, https://arxiv.org/abs/2211.02686.
    """
