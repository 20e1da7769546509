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


def is_plain(x, transform, statistic, weights, write, residual):
    """Whether `normalize_batch` with these arguments is what the operation computes."""
    return (
        isinstance(transform, Standardization)
        and transform.kept is MOVING_VARIANCE
        and statistic in (MOMENTS, SIZED_MOMENTS)
        and weights is None
        and write is None
        and implementation_in_use() == "native"
        and native.has_gradient(Operands(0, v=x, u=residual))
    )


def normalize_in_one_operation(
    x, transform, parameters, *, statistic, axis, segment_size, residual, rectifier, moving
):
    """See `normalize_batch`."""
    moves = moving is not None and moving.rule.is_plain and segment_size is None
    y, count, mean, variance, *moved = run_normalize(
        {"x": x, "residual": residual, **parameters},
        moving if moves else None,
        rectifier=rectifier,
        epsilon=repr(float(transform.epsilon)),
        has_statistics_gradient=transform.has_extras,
        axis=axis,
        segment_size=segment_size or 0,
    )
    extras = (mean, variance) if transform.has_extras else ()
    if extras:
        mean, variance = map(tf.stop_gradient, extras)
    found = statistics_of(statistic, count, mean, variance)
    return Normalized(y, found, extras, tuple(moved) or None)


def statistics_of(statistic, count, mean, variance):
    """The statistics as a named tuple; without weights, the size of a batch is its count."""
    if statistic is SIZED_MOMENTS:
        return SizedMoments(mean, variance, count, count)
    return Moments(mean, variance, count)


def run_normalize(tensors, update, *, parts=None, rectifier=None, **attributes):
    """Returns y, count, mean, variance, and with an update the new mean and variance.

    Args:
        tensors: x, residual, gamma and beta by name; the last three may be missing.
        update: None, or a plain `MovingUpdate`.
        parts: None, or the packed moments of all replicas.
    """
    given = {name: native.optional(tensors.get(name)) for name in ("residual", "gamma", "beta")}
    *found, new_mean, new_variance = library.ops().keras_norms_normalize(
        x=tensors["x"],
        **given,
        parts=native.optional(parts),
        moving_mean=[update.mean] if update else [],
        moving_variance=[update.spread] if update else [],
        share=[update.rule.share(update.mean.dtype)] if update else [],
        **native.rectifier_attributes(rectifier),
        **attributes,
    )
    return *found, *new_mean, *new_variance


def run_normalize_grad(dy, tensors, statistics, **others):
    """Returns dx, dresidual where `y` is given, dgamma and dbeta.

    Args:
        dy: the gradient of y.
        tensors: x, gamma and beta by name; the last two may be missing.
        statistics: count, mean and variance as `run_normalize` returned them.
        **others: attributes, and optional inputs as lists.
    """
    gamma, beta = tensors.get("gamma"), tensors.get("beta")
    dtype = next((v.dtype for v in (gamma, beta) if v is not None), tf.float32)
    optional: dict = dict(y=[], beta=[], of_mean=[], of_variance=[], own_sums=[], sums=[])
    found = library.ops().keras_norms_normalize_grad(
        dy=dy,
        x=tensors["x"],
        gamma=native.optional(gamma),
        **dict(zip(("count", "mean", "variance"), statistics, strict=True)),
        P=dtype,
        **(optional | others),
    )
    return found.dx, *found.dresidual, found.dgamma, found.dbeta


@tf.RegisterGradient("KerasNorms>Normalize")
def _normalize(op, dy, d_count, d_mean, d_variance, *d_moved):
    del d_count, d_moved  # Constants.
    given = native.inputs_of(op, ("x", "residual", "gamma", "beta"))
    y, count, mean, variance, *_ = op.outputs
    is_rectified, has_residual = op.get_attr("rectified"), "residual" in given
    others = _attributes(op)
    # Halves of a slope are rounded once, before they are summed and stored.
    is_inexact = op.get_attr("negative_slope") > 0.0 and y.dtype.size < 4
    if is_rectified and has_residual and is_inexact:
        dy = native.rectifier_of(op).gradient(dy, y)
        others |= dict(rectified=False)
    elif is_rectified and has_residual:
        others |= dict(y=[y])
    elif is_rectified:
        others |= dict(beta=native.optional(given.get("beta")))
    if op.get_attr("has_statistics_gradient"):
        others |= dict(of_mean=[d_mean], of_variance=[d_variance])
    dx, *dz, dgamma, dbeta = run_normalize_grad(dy, given, (count, mean, variance), **others)
    gradients = dict(x=dx, residual=dz[0] if dz else dy, gamma=dgamma, beta=dbeta)
    return [gradients[name] for name in given] + [None] * (len(op.inputs) - len(given))


def _attributes(op):
    names = ("epsilon", "rectified", "negative_slope", "cap", "axis", "segment_size")
    return {name: op.get_attr(name) for name in names}


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
