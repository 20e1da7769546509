"""Normalization with any statistic and any transform, on the kernels of either implementation."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.kernels import blend, sums
from keras_norms.ops.operands import Operands
from keras_norms.ops.recall import recall
from keras_norms.statistics.moments import MOMENTS
from keras_norms.statistics.replicas import ReplicaGroup

ALONE = ReplicaGroup(size=1)


class Normalized(NamedTuple):
    """What `normalize_batch` returns.

    Attributes:
        y: of the shape and dtype of `x`.
        statistics: the merged statistics, a named tuple of float64 vectors. No gradient.
        extras: what `transform` returned beyond scale, center and shift.
        moved: the new moving mean and spread, where they were computed in passing, or None.
    """

    y: tf.Tensor
    statistics: Any
    extras: tuple
    moved: tuple | None = None


def normalize_by_composite(
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
):
    """See `normalize_batch`.

    forward    statistic.local(x) -> one packed exchange -> statistic.merge
               -> scale, center, shift, *extras = transform(statistics, **parameters)
               -> y = blend(x)
    backward   (S1, S2) = sums(dy, x) -> vector-Jacobian product of transform
               -> one packed sum of the statistics' gradients -> dx = blend(dy, x)
    """
    axis %= x.shape.rank
    parameters = {name: tf.cast(value, tf.float64) for name, value in parameters.items()}
    layout = dict(axis=axis, weights=weights, segment_size=segment_size)
    names = tuple(parameters)
    has_residual = residual is not None

    def affine(statistics, extra_sum, values):
        named = dict(zip(names, values, strict=True))
        if extra is not None:
            named["extra"] = extra_sum
        scale, center, shift, *extras = transform(statistics, **named)
        vectors = [scale, center] if shift is None else [scale, center, shift]
        if segment_size is not None:
            vectors = [tf.broadcast_to(vector, tf.shape(center)) for vector in vectors]
        return vectors, extras

    def statistics_gradient(kept, statistics, gradients):
        """What takes gradients of the shared statistics to `x`."""
        summed = type(statistics)(*group.sum(list(gradients)))
        return statistic.pullback(kept, statistics, summed)

    def recalled_statistics(x, kept, statistics):
        kind = type(statistics)

        def pullback(x, values, gradients):
            back = statistics_gradient(kept, kind(*values), kind(*gradients))
            b = tf.zeros_like(back.c) if back.b is None else back.b
            of_moments = dict(v=x, b=b, c=back.c, center=back.center)
            return back.at_positions(blend(**of_moments, weighted=weights is not None, **layout))

        return kind(*recall(statistics, x, pullback))

    @tf.custom_gradient
    def composite(x, *values):
        residual = values[0] if has_residual else None
        values = values[has_residual:]
        own_parts, kept = statistic.local(x, **layout)
        parts, extra_sum = _exchange(statistic, own_parts, extra, group)
        forward = statistic.finish(parts)
        vectors, extras = affine(forward, extra_sum, values)
        if write is None:
            after = dict(u=residual, rectifier=rectifier)
            y = kernels_in_use().blend(Operands(v=x, **_roles(vectors), **after, **layout))
        else:
            y = write(x, vectors[1], *extras, **dict(zip(names, values, strict=True)))
        results = forward, tuple(extras)
        if extras:
            # A training step may use y for no gradient and the others for all. TensorFlow's graph
            # optimizer, in removing IdentityN, then forgets that the parameters are read for y
            # before they are updated.
            with tf.control_dependencies([y]):
                results = tf.nest.map_structure(tf.identity, results)

        def gradient(dy, *gradients):
            dy = dy if rectifier is None else rectifier.gradient(dy, y)
            extras_gradients = gradients[len(forward) :]
            statistics = recalled_statistics(x, kept, forward)
            with tf.GradientTape() as tape:
                tape.watch([statistics, values])
                vectors, extras = affine(statistics, extra_sum, values)
            scale, center = vectors[:2]
            sum_dy, sum_dy_centred = sums(u=dy, v=x, center=center, **layout)
            of_vectors = [sum_dy_centred, -scale * sum_dy, sum_dy][: len(vectors)]
            of_statistics, of_values = tape.gradient(
                [*vectors, *extras],
                [statistics, values],
                output_gradients=[*of_vectors, *extras_gradients],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            back = statistics_gradient(kept, statistics, of_statistics)
            of_moments = {} if back.b is None else dict(v=x, b=back.b, center=back.center)
            of_moments |= dict(c=back.c, weighted=weights is not None)
            dx = blend(u=dy, a=scale, **of_moments, **layout)
            return back.at_positions(dx), *([dy] if has_residual else []), *of_values

        return (y, *results), gradient

    return Normalized(*composite(x, *([residual] if has_residual else []), *parameters.values()))


def _exchange(statistic, own_parts, extra, group):
    """The parts and the extra of the whole group."""
    if group.members() == 1:
        return own_parts, extra
    if extra is None:
        return group.merged(own_parts, statistic.merge), None
    *parts, extra_sum = group.merged([*own_parts, extra], statistic.merge)
    return parts, extra_sum


def _roles(vectors):
    scale, center, *shift = vectors
    return dict(b=scale, center=center, c=shift[0] if shift else None)
