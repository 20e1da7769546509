"""Batch normalization with the statistics of all replicas."""

from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.layers.keras_2 import registered


@registered
class SyncBatchNormalization(BatchNormalizationBase):
    """Normalizes each channel by mean and variance over the batches of all replicas.

    The formulas are those of `BatchNormalization` with sums over all replicas `r`:

        count    = sum_r count_r
        mean     = sum_r count_r * mean_r / count
        variance = sum_r count_r * (variance_r + (mean_r - mean)^2) / count

    so k replicas compute what one would on the concatenated batch: outputs, gradients and moving
    statistics, also where replicas have unequal, empty or fully masked batches. A step
    costs one all-reduce forward and one backward per layer. Gradients of gamma and beta are those
    of the replica's own loss, which optimizers add up as usual: divide each loss by the number of
    replicas, as Keras does in `fit`.

    Use it under `tf.distribute` where replicas see few images each (detection,
    segmentation, large inputs). Not where one replica's batch is large enough: it only adds
    waiting. On one replica, and outside of replica context, it is `BatchNormalization`.

    Args:
        axis: see `BatchNormalization`, as for all but these. Defaults to `-1`.
        momentum: Defaults to `0.99`.
        epsilon: Defaults to `1e-3`.
        group_size: synchronize groups of this many consecutive replicas; it must divide their
            number. `"worker"` makes the replicas of each machine a group. Where every group lies
            within a machine, nothing is sent between machines. Defaults to `None`, all.
        **kwargs: all other arguments of `BatchNormalization` but `synchronized` and
            `virtual_batch_size`.

    Call arguments, shapes and weights: as `BatchNormalization`.

    Raises:
        ValueError: as `BatchNormalization`, if `group_size` does not divide the replicas, or if
            replicas do not call the same synchronized layers in the same order.
        RuntimeError: where tf.distribute allows no collective: in a `tf.cond`, a
            `tf.while_loop` or a `tf.function` called by a replica, and, with Keras 3, where a
            traced step is the first to call the layer; and under a `ParameterServerStrategy`,
            whose replicas do not wait for each other. Statistics are never silently left
            unsynchronized.

    Example:

    >>> strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    >>> with strategy.scope():
    ...     layer = keras_norms.SyncBatchNormalization()
    ...     layer.build((None, 3))
    >>> strategy.run(lambda x: layer(x, training=True), args=(tf.ones((2, 3)),)).shape
    TensorShape([2, 3])

    Reference:
        Peng et al., 2018, https://arxiv.org/abs/1711.07240; the merge of moments is that of
        Chan, Golub and LeVeque, 1979.
    """

    def __init__(self, axis=-1, momentum=0.99, epsilon=1e-3, **kwargs):
        if not kwargs.pop("synchronized", True):
            raise ValueError(
                "SyncBatchNormalization: it is always synchronized; use BatchNormalization "
                "instead. Received: synchronized=False."
            )
        super().__init__(axis, momentum, epsilon, synchronized=True, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["synchronized"]
        return config

    @classmethod
    def from_config(cls, config):
        """Also takes the config of a stock `BatchNormalization`, synchronized or not."""
        return super().from_config({k: v for k, v in config.items() if k != "synchronized"})
