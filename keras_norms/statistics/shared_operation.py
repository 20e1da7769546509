"""The plain formula over replicas: as few operations as two collectives leave room for.

forward    Moments -> one packed exchange -> Normalize of x with the parts of all
backward   Sums -> one packed sum -> NormalizeGrad with the sums of all
beyond     the gradient of the backward pass is that of the composite
"""

import tensorflow as tf

from keras_norms.ops import kernels, native
from keras_norms.statistics.composite import Normalized, normalize_by_composite
from keras_norms.statistics.moments import MOMENTS
from keras_norms.statistics.one_operation import run_normalize, run_normalize_grad, statistics_of


def normalize_over_replicas(
    x, transform, parameters, *, statistic, axis, group, residual, rectifier, moving
):
    """See `normalize_batch`. The transform has no extras."""
    update = moving if moving is not None and moving.rule.is_plain else None
    given = {"x": x, **({} if residual is None else {"residual": residual}), **parameters}
    names = list(given)
    attributes = dict(epsilon=repr(float(transform.epsilon)), axis=axis)

    def by_name(tensors):
        return dict(zip(names, tensors, strict=True))

    @tf.custom_gradient
    def forward(*tensors):
        here = by_name(tensors)
        parts = group.rows_to_merge(native.moments(here["x"], axis=axis), MOMENTS.merge)
        y, count, mean, variance, *moved = run_normalize(
            here, update, parts=parts, rectifier=rectifier, **attributes
        )

        @tf.custom_gradient
        def backward(dy, *tensors):
            here = by_name(tensors)
            dz = dy if rectifier is None else rectifier.gradient(dy, y)
            own = tf.concat(kernels.sums(u=dz, v=here["x"], center=mean, axis=axis), 0)
            sums = dict(own_sums=[own], sums=group.sum([own]))
            statistics = count, mean, variance
            dx, dgamma, dbeta = run_normalize_grad(dz, here, statistics, **sums, **attributes)
            gradients = dict(x=dx, residual=dz, gamma=dgamma, beta=dbeta)

            def beyond(*of_gradients):
                with tf.GradientTape() as outer:
                    outer.watch([dy, *tensors])
                    with tf.GradientTape() as inner:
                        inner.watch(tensors)
                        again = _composite(by_name(tensors), transform, axis, group, rectifier)
                    first = inner.gradient(again, tensors, output_gradients=dy)
                return outer.gradient(first, [dy, *tensors], output_gradients=list(of_gradients))

            return [gradients[name] for name in names], beyond

        return (y, count, mean, variance, *moved), lambda dy, *_: backward(dy, *tensors)

    y, count, mean, variance, *moved = forward(*given.values())
    return Normalized(y, statistics_of(statistic, count, mean, variance), (), tuple(moved) or None)


def _composite(given, transform, axis, group, rectifier):
    """`y` in operations that are differentiable to any order."""
    parameters = {name: given[name] for name in ("gamma", "beta") if name in given}
    options = dict(axis=axis, group=group, residual=given.get("residual"), rectifier=rectifier)
    return normalize_by_composite(given["x"], transform, parameters, **options).y
