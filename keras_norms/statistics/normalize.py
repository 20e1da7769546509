"""What every batch-statistics layer is made of."""

from keras_norms.statistics.composite import ALONE, Normalized, normalize_by_composite
from keras_norms.statistics.moments import MOMENTS
from keras_norms.statistics.one_operation import is_plain, normalize_in_one_operation
from keras_norms.statistics.shared_operation import SharedCall, normalize_over_replicas

__all__ = ["ALONE", "Normalized", "normalize_batch", "normalize_together"]


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
    after = dict(residual=residual, rectifier=rectifier)
    if extra is None and is_plain(x, transform, statistic, weights, write, residual):
        plain = dict(statistic=statistic, axis=axis, moving=moving, **after)
        if group.members() == 1:
            options = dict(segment_size=segment_size, **plain)
            return normalize_in_one_operation(x, transform, parameters, **options)
        if segment_size is None and not transform.has_extras:
            call = SharedCall(x, transform, parameters, **plain)
            return normalize_over_replicas([call], group)[0]
    return normalize_by_composite(
        x,
        transform,
        parameters,
        statistic=statistic,
        extra=extra,
        axis=axis,
        weights=weights,
        segment_size=segment_size,
        group=group,
        write=write,
        **after,
    )


def normalize_together(begun, group):
    """Finishes several independent calls of layers, with the two exchanges of one where it can.

    Args:
        begun: for each call the arguments of `normalize_batch`, or None where there is nothing to
            normalize by a batch, and a function of its result.
        group: the replicas that share statistics, the same for all.

    Returns:
        What the functions return.
    """
    calls = [arguments for arguments, _ in begun]
    if group.members() > 1 and all(map(_is_shared, calls)):
        names = [name for name in SharedCall._fields if name != "axis"]
        shared = [
            SharedCall(axis=call["axis"] % call["x"].shape.rank, **{n: call[n] for n in names})
            for call in calls
        ]
        found = normalize_over_replicas(shared, group)
        return [finish(result) for (_, finish), result in zip(begun, found, strict=True)]
    return [
        finish(None if arguments is None else normalize_batch(**arguments))
        for arguments, finish in begun
    ]


def _is_shared(call):
    """Whether the arguments of `normalize_batch` are those of the plain formula."""
    if call is None or call["segment_size"] is not None:
        return False
    names = ("x", "transform", "statistic", "weights", "write", "residual")
    return is_plain(**{name: call[name] for name in names}) and not call["transform"].has_extras
