"""Batch normalization that is exact, masked and safe on several replicas."""

from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.layers.keras_2 import registered


@registered
class BatchNormalization(BatchNormalizationBase):
    """Normalizes each channel by mean and variance of the batch; exact at any offset.

    Training, per channel, over all other axes, with weights `w` from the mask (1 without one):

        count    = sum(w)
        mean     = sum(w * x) / count
        variance = sum(w * (x - mean)^2) / count
        y        = gamma * (x - mean) / sqrt(variance + epsilon) + beta
        moving   = momentum * moving + (1 - momentum) * (mean, variance)

    Inference, and training with `trainable = False`:

        y        = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta

    Use it wherever `keras.layers.BatchNormalization` is used: arguments, weights and their order
    are the same, and so weights load both ways. It differs where stock Keras is wrong: statistics
    of values far from zero, masks, empty and fully masked batches, moving statistics under a
    distribution strategy (the average over the replicas), gradients of second order. Not for
    batches of one or two values per channel: their statistics are noise.

    A position of weight 0 is normalized like the others, but counts in no statistic. If it holds
    NaN or Inf it is read as the mean, so that `y = beta` there and no NaN spreads. A batch in
    which nothing counts is normalized as in inference and leaves the moving statistics alone.
    The moving variance stops near the largest number of its dtype; for the range of the inputs
    see `ops.batch_moments`.

    In a block that the backward pass recomputes (`tf.recompute_grad`, `keras.remat`,
    `keras.RematScope`) the moving statistics are updated once, and gradients are those without
    recomputation. The block must call the layer directly, not in a `tf.function`, `tf.cond` or
    loop inside the block; a `tf.function` that was traced before cannot be detected there.

    Args:
        axis: the channel axis, or a list of axes. Lists keep one mean per combination; axes apart
            from each other cost a transposition. Defaults to `-1`.
        momentum: the share of the old moving value kept, in [0, 1]: a number, a Keras schedule
            of the layer's step, a variable, which acts at once when it is assigned, or `None` for
            the average of all training batches. 1 never updates.
            Defaults to `0.99`.
        epsilon: added to the variance, at least 0. With 0 a constant channel gives NaN.
            Defaults to `1e-3`.
        center: whether to add `beta`. Defaults to `True`.
        scale: whether to multiply by `gamma`. Defaults to `True`.
        beta_initializer: Defaults to `"zeros"`.
        gamma_initializer: Defaults to `"ones"`.
        moving_mean_initializer: Defaults to `"zeros"`.
        moving_variance_initializer: Defaults to `"ones"`.
        beta_regularizer: Defaults to `None`.
        gamma_regularizer: Defaults to `None`.
        beta_constraint: Defaults to `None`.
        gamma_constraint: Defaults to `None`.
        synchronized: whether replicas share statistics, see `SyncBatchNormalization`.
            Defaults to `False`.
        group_size: with `synchronized`, share them in groups of this many consecutive replicas; it
            must divide their number. `"worker"` makes each machine a group. Defaults to `None`,
            all.
        virtual_batch_size: take statistics over groups of this many samples ("ghost batches"), the
            last of which takes the remainder; the moving statistics average them by count. Not with
            `synchronized`. Defaults to `None`.
        unbiased_moving_variance: whether the moving variance averages `variance * n / (n - 1)`
            (where n is above 1), as PyTorch and the fused layer of Keras 2 do. n is the effective
            size, `sum(w)^2 / sum(w^2)`: how many values count, where weights are 0 or 1, and for
            sample weights of any scale the number of equal weights that tell as much. Each
            virtual batch is corrected by its own. Defaults to `False`, as Keras 3.
        skip_nonfinite_updates: whether a batch whose statistics hold NaN or Inf leaves
            the moving statistics alone. Defaults to `False`.
        max_update: bounds what one batch does to the moving statistics: its mean and standard
            deviation count as within `max_update` moving standard deviations of the moving ones. A
            poisoned batch then moves the model little, NaN and Inf not at all. Typically 1 to 3. A
            wrong initial state is left very slowly, so set it when continuing training. One batch
            multiplies the moving variance by at most
            `1 + (1 - momentum) * ((1 + max_update)^2 - 1)`, with momentum 0.99 that is 1.03 for 1,
            1.15 for 3 and 1.35 for 5, and several add up. It needs an `epsilon` above 0. Defaults
            to `None`, no bound.
        accumulate_steps: N, an int above 0: the moving statistics move once in N training calls, by
            the statistics of all N batches together, as if they had been one batch: counts, means
            and variances are merged exactly. Each batch is still normalized by its own. For
            optimizers that accumulate gradients over N batches; see below. Defaults to `1`.
        frozen: what training leaves alone, a list: with `"statistics"` the layer computes as in
            inference and its moving statistics stay, with `"parameters"` gamma and beta are not
            trained. See `freeze_batch_norm`. Defaults to `()`, nothing.
        activation: what is applied to `y`: `None`, the name of a Keras activation, a function, or a
            `keras.layers.ReLU` or `LeakyReLU`. `"relu"`, `"relu6"`, `"leaky_relu"` and those layers
            run in the pass that writes `y`, and the gradient keeps nothing for them; others are
            called afterwards. See `fuse_activations`. Defaults to `None`.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `(batch, ..., channels, ...)`, rank 2 or more; all sizes but those of the
            channel axes may be unknown.
        training: bool or bool tensor. For a tensor whose value is not known while tracing, the
            vectors of both modes are computed and one is selected.
        mask: bool, or numbers as sample weights; negative and NaN weights count as 0. It has the
            shape of the leading non-channel axes, `(batch,)` or `(batch, time)` for example, or the
            rank of the inputs with 1 on the channel axes; sizes of 1 broadcast. Masks of preceding
            Keras layers are picked up automatically. With channels first, that of Keras' `Masking`
            covers `(batch, channels)`; it is read so where its shape cannot be `(batch, time)`.
        residual: None, or a tensor of the shape and dtype of `inputs`, which is added before the
            activation: `activation(y + residual)`, in the same pass. A layer is always called with
            one or always without.

    With `accumulate_steps=N` the update sees N batches as one. A batch in which nothing counts adds
    nothing but is one of the N; if nothing counts in any of them nothing moves.
    `skip_nonfinite_updates` leaves out all N if one is not finite. `max_update`, `momentum` and
    `unbiased_moving_variance` act once, and the step of a schedule counts updates, not calls.
    Synchronized layers accumulate what is merged over replicas already; others accumulate on each
    replica. It excludes `virtual_batch_size`, whose statistics are averaged and not merged.

    Output shape: that of the inputs, in the layer's compute dtype.

    Weights: `gamma`, `beta`, `moving_mean`, `moving_variance`, of shape `(channels,)`, or with
    several axes of the rank of the inputs with 1 elsewhere. They are float32 under every dtype
    policy but float64, and statistics are computed in float64. Layers that need a step have `step`,
    the number of updates. With `accumulate_steps` above 1 there are `accumulated_count`,
    `accumulated_mean` and `accumulated_m2`, with `unbiased_moving_variance` also
    `accumulated_squared_weights`, float64 of shape `(channels,)`, and `accumulated_calls`: a
    training that stops between updates can be resumed. (Saved from several replicas that are not
    synchronized, they are the average of what each has.)

    Raises:
        ValueError: for an invalid argument, an unknown channel size, a mask or a residual whose
            shape does not fit, and a residual in some calls only.

    Example:

    >>> layer = keras_norms.BatchNormalization(momentum=0.5, epsilon=0.0)
    >>> x = tf.constant([[1e6 + 1.0], [1e6 + 3.0], [7.0]])
    >>> layer(x, training=True, mask=tf.constant([True, True, False])).numpy()[:2]
    array([[-1.],
           [ 1.]], dtype=float32)
    >>> float(layer.moving_variance[0])
    1.0

    Reference:
        Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167, Algorithm 1.
    """
