"""The plain formula as one operation of the compiled library each way.

    forward    Normalize: moments, y with a residual and a rectifier, new moving statistics
    backward   NormalizeGrad: all gradients
    beyond     the gradient of NormalizeGrad is that of the composite

It is the composite (`composite.py`) without what a step of that takes beside its kernels: some
forty small operations, each of which costs as much as a pass over a small activation.
"""

import tensorflow as tf

from keras_norms.ops import library, native
from keras_norms.ops.choice import implementation_in_use
from keras_norms.ops.operands import Operands
from keras_norms.statistics.composite import Normalized, normalize_by_composite
from keras_norms.statistics.effective_size import SIZED_MOMENTS, SizedMoments
from keras_norms.statistics.moments import MOMENTS, Moments
from keras_norms.statistics.moving_statistics import MOVING_VARIANCE
from keras_norms.statistics.standardization import Standardization


def can_be_one_operation(x, transform, statistic, weights, group, write, residual):
    """Whether `normalize_batch` with these arguments is what the operation computes."""
    return (
        isinstance(transform, Standardization)
        and transform.kept is MOVING_VARIANCE
        and statistic in (MOMENTS, SIZED_MOMENTS)
        and weights is None
        and write is None
        and implementation_in_use() == "native"
        and native.has_gradient(Operands(0, v=x, u=residual))
        and group.members() == 1
    )


def normalize_in_one_operation(
    x, transform, parameters, *, statistic, axis, segment_size, residual, rectifier, moving
):
    """See `normalize_batch`."""
    gamma, beta = parameters.get("gamma"), parameters.get("beta")
    is_plain = moving is not None and moving.rule.is_plain and segment_size is None
    update = moving if is_plain else None
    y, count, mean, variance, *moved = library.ops().keras_norms_normalize(
        x=x,
        residual=native.optional(residual),
        gamma=native.optional(gamma),
        beta=native.optional(beta),
        moving_mean=[update.mean] if update else [],
        moving_variance=[update.spread] if update else [],
        share=[update.rule.share(update.mean.dtype)] if update else [],
        epsilon=repr(float(transform.epsilon)),
        has_statistics_gradient=transform.has_extras,
        axis=axis,
        segment_size=segment_size or 0,
        **native.rectifier_attributes(rectifier),
    )
    extras = (mean, variance) if transform.has_extras else ()
    if extras:
        mean, variance = map(tf.stop_gradient, extras)
    size = (count,) if statistic is SIZED_MOMENTS else ()
    kind = SizedMoments if size else Moments
    return Normalized(
        y,
        kind(mean, variance, count, *size),
        extras,
        tuple(value[0] for value in moved) if update else None,
    )


@tf.RegisterGradient("KerasNorms>Normalize")
def _normalize(op, dy, d_count, d_mean, d_variance, *d_moved):
    del d_count, d_moved  # Constants.
    names = ("x", "residual", "gamma", "beta")
    given = native.inputs_of(op, names)
    x, gamma, beta = given["x"], given.get("gamma"), given.get("beta")
    of_statistics = op.get_attr("has_statistics_gradient")
    keeps_y = op.get_attr("rectified") and "residual" in given
    needs_beta = op.get_attr("rectified") and not keeps_y
    y, count, mean, variance, *_ = op.outputs
    dtype = next((v.dtype for v in (gamma, beta) if v is not None), tf.float32)
    dx, *dresidual, dgamma, dbeta = _gradients(
        dict(
            dy=dy,
            x=x,
            y=[y] if keeps_y else [],
            gamma=native.optional(gamma),
            beta=native.optional(beta) if needs_beta else [],
            count=count,
            mean=mean,
            variance=variance,
            of_mean=[d_mean] if of_statistics else [],
            of_variance=[d_variance] if of_statistics else [],
        ),
        dtype,
        _attributes(op),
    )
    gradients = dict(x=dx, residual=dresidual[0] if keeps_y else dy, gamma=dgamma, beta=dbeta)
    constants = [None] * (len(op.inputs) - len(given))
    return [gradients[name] for name in given] + constants


def _attributes(op):
    names = ("epsilon", "rectified", "negative_slope", "cap", "axis", "segment_size")
    return {name: op.get_attr(name) for name in names}


def _gradients(inputs, dtype, attributes):
    found = library.ops().keras_norms_normalize_grad(**inputs, P=dtype, **attributes)
    return found.dx, *found.dresidual, found.dgamma, found.dbeta


@tf.RegisterGradient("KerasNorms>NormalizeGrad")
def _normalize_grad(op, *gradients):
    """Through the composite, which is differentiable to any order."""
    names = ("dy", "x", "y", "gamma", "beta", "count", "mean", "variance", "of_mean", "of_variance")
    given = native.inputs_of(op, names)
    attributes = _attributes(op)
    rectifier = native.rectifier_of(op)
    watched = {
        name: given[name]
        for name in ("dy", "x", "gamma", "beta", "of_mean", "of_variance")
        if name in given
    }
    with tf.GradientTape() as outer:
        outer.watch(watched)
        dy = watched["dy"]
        if "y" in given:
            dy, rectifier = rectifier.gradient(dy, given["y"]), None
        found = _recomputed(watched, dy, rectifier, attributes)
        # In the order of the outputs, where dresidual is what y passes of dy.
        dx, dgamma, dbeta = found
        results = [dx, *([dy] if "y" in given else []), dgamma, dbeta]
        results = [tf.cast(r, g.dtype) for r, g in zip(results, gradients, strict=True)]
    found = outer.gradient(results, watched, output_gradients=list(gradients))
    return [found.get(name) for name in given]


def _recomputed(watched, dy, rectifier, attributes):
    """dx, dgamma and dbeta as functions of `watched` and dy."""
    x = watched["x"]
    channels = x.shape[attributes["axis"]]
    dtype = tf.float64
    parameters = {
        "gamma": tf.cast(watched.get("gamma", tf.ones([channels])), dtype),
        "beta": tf.cast(watched.get("beta", tf.zeros([channels])), dtype),
    }
    transform = Standardization(float(attributes["epsilon"]), has_extras="of_mean" in watched)
    with tf.GradientTape() as inner:
        inner.watch([x, parameters])
        y, _, extras, _ = normalize_by_composite(
            x,
            transform,
            parameters,
            axis=attributes["axis"],
            segment_size=attributes["segment_size"] or None,
            rectifier=rectifier,
        )
    of_extras = [watched["of_mean"], watched["of_variance"]] if extras else []
    dx, of_parameters = inner.gradient(
        [y, *extras], [x, parameters], output_gradients=[dy, *of_extras]
    )
    return dx, of_parameters["gamma"], of_parameters["beta"]
