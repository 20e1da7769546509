"""What every batch-statistics layer is made of."""

from keras_norms.statistics.composite import ALONE, Normalized, normalize_by_composite
from keras_norms.statistics.moments import MOMENTS
from keras_norms.statistics.one_operation import can_be_one_operation, normalize_in_one_operation

__all__ = ["ALONE", "Normalized", "normalize_batch"]


def normalize_batch(
    x,
    transform,
    parameters,
    *,
    statistic=MOMENTS,
    extra=None,
    axis=-1,
    weights=None,
    segment_size=None,
    group=ALONE,
    write=None,
    residual=None,
    rectifier=None,
    moving=None,
):
    """Normalizes with statistics of the batch: `y = scale * (x - center) + shift`.

    Forward reads `x` twice and writes `y`; backward reads `dy` and `x` twice and writes `dx`,
    and keeps nothing of that size but `x` and the weights. Differentiable to any order.

    Args:
        x: activation with one channel axis.
        transform: `transform(statistics, **parameters)` returns float64 vectors scale, center and
            shift (None for 0), then any extras. It must be pure, since it runs again in the
            backward pass: no variables (TensorFlow raises), no random numbers. A
            `Standardization` may run as one operation.
        parameters: dict of float tensors that gradients flow to: gamma, beta.
        statistic: see `Statistic`. Defaults to `MOMENTS`.
        extra: a float64 vector that is summed over the group in the same exchange and
            handed to `transform` as `extra`. A constant. Defaults to None.
        axis: the channel axis. Defaults to `-1`.
        weights: None, or constants as `row_weights` makes them.
        segment_size: None, or rows per virtual batch. Vectors then are `[segments, channels]`.
        group: the replicas that share statistics. Defaults to this replica alone.
        write: None for `blend`, or `write(x, center, *extras, **parameters)`, which returns `y`
            as something near it, such as with rounded steps. The gradient is that of `blend`.
        residual: None, or an activation like `x` that is added to `y`. Not with `write`.
        rectifier: None, or the `Rectifier` that is applied to that. Not with `write`.
        moving: None, or a `MovingUpdate` that may be computed in the same operation.

    Returns:
        `Normalized(y, statistics, extras, moved)`.
    """
    axis %= x.shape.rank
    shared = dict(axis=axis, segment_size=segment_size, statistic=statistic)
    shared |= dict(residual=residual, rectifier=rectifier)
    if extra is None and can_be_one_operation(
        x, transform, statistic, weights, group, write, residual
    ):
        return normalize_in_one_operation(x, transform, parameters, moving=moving, **shared)
    return normalize_by_composite(
        x, transform, parameters, extra=extra, weights=weights, group=group, write=write, **shared
    )
