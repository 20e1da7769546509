"""The three kernels that layers are made of, differentiable to any order.

    moments(x; w)                    count = sum w, mean, m2 = sum w (x - mean)^2
    sums(u, v, center; w)            sum w u, sum w u (v - center), and y in the same pass
    blend(u, v, a, b, c, center; w)  a u + w (b (v - center) + c), and a rectifier of that

Each is one pass over the activations it names. Their gradients are made of the same
three again, so a gradient of any order is as few passes. Which code computes them is the choice
of `choice.py`; here are the gradients only. Arguments are the fields of `Operands`.
Ranges and number formats have kernels of their own (`extremes.py`, `rounding.py`).

An operation of the compiled library has its gradient registered (`operation_gradients.py`), which
leaves TensorFlow nothing to keep of a trace. The reference gets the same one by
`tf.custom_gradient`: the gradients of its single operations would read activations more often.
"""

import tensorflow as tf

from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.operands import Operands
from keras_norms.ops.recall import recall


def moments(x, *, axis, weights=None, segment_size=None):
    """Returns count, mean and m2. The count has size 1 where all channels share it."""
    layout = dict(axis=axis, weights=weights, segment_size=segment_size)
    implementation = kernels_in_use()
    values = implementation.moments(x, **layout)
    if implementation.has_gradient(Operands(v=x, **layout)):
        return values

    def pullback(x, values, gradients):
        return moments_gradient(x, values, gradients, **layout)

    return recall(values, x, pullback)


def moments_gradient(x, values, gradients, *, axis, weights, segment_size):
    """The gradient of `x`, from what `moments` returned and the gradients of that."""
    count, mean, _ = values
    _, mean_gradient, m2_gradient = gradients
    return blend(
        v=x,
        b=2.0 * m2_gradient,
        c=tf.math.divide_no_nan(mean_gradient, count),
        center=mean,
        weighted=weights is not None,
        axis=axis,
        weights=weights,
        segment_size=segment_size,
    )


def sums(**named):
    """Returns `sum w u` and, where `v` is given, `sum w u (v - center)`, else None.

    Without `u`, `u` is `v - center`. With `scale`, a third result is `y = scale u`, without `u`
    `y = scale (v - center) + shift`, from the same pass and without `w`.
    """
    operands = Operands(**named)
    if kernels_in_use().has_gradient(operands):
        return kernels_in_use().sums(operands)

    def run(here):
        return tuple(result for result in kernels_in_use().sums(here) if result is not None)

    def gradient_of(here, results, *gradients):
        del results
        return sums_gradient(here, *gradients)

    results = _with_gradient(run, gradient_of, operands)
    return results if operands.v is not None else (results[0], None)


def sums_gradient(operands, of_sum, of_product=None, dy=None):
    """The gradients of the operands by name, from those of the results of `sums`."""
    u, v, center, scale = operands.u, operands.v, operands.center, operands.scale
    layout, unweighted = operands.layout, operands.unweighted_layout
    if v is None:
        return {"u": blend(v=u, b=tf.zeros_like(of_sum), c=of_sum, **layout)}
    own = 1.0 if u is not None else 2.0  # Without u, v - center is there squared.
    through_y = {} if dy is None else dict(u=dy, a=scale)
    d_own = blend(**through_y, v=v, b=own * of_product, c=of_sum, center=center, **layout)
    if u is None:
        gradients = {"v": d_own}
        if center is not None:
            gradients["center"] = -sums(u=d_own, **unweighted)[0]
        if scale is not None:
            only_valid = {**layout, "weighted": False}
            gradients["shift"], gradients["scale"] = sums(u=dy, v=v, center=center, **only_valid)
        return gradients
    gradients = {"u": d_own, "v": blend(v=u, b=of_product, **operands.weighing_layout)}
    if center is not None:
        gradients["center"] = -of_product * sums(u=u, **operands.weighing_layout)[0]
    if scale is not None:
        gradients["scale"] = sums(u=dy, v=u, **unweighted)[1]
    return gradients


def blend(**named):
    """Returns `a u + w (b (v - center) + c)` in the dtype of `v`; each term is optional.

    With a `rectifier`, that of this sum.
    """
    operands = Operands(**named)
    if kernels_in_use().has_gradient(operands):
        return kernels_in_use().blend(operands)
    return _with_gradient(lambda here: kernels_in_use().blend(here), blend_gradient, operands)


def blend_gradient(operands, y, dy):
    """The gradients of the operands by name, from the result of `blend` and its gradient."""
    u, v, center, gradients = operands.u, operands.v, operands.center, {}
    if operands.rectifier is not None:
        dy = operands.rectifier.gradient(dy, y)
    if operands.a is None and u is not None:
        gradients["u"] = dy
    elif u is not None:
        gradients["u"] = blend(v=dy, b=operands.a, **operands.unweighted_layout)
        gradients["a"] = sums(u=dy, v=u, **operands.unweighted_layout)[1]
    if v is not None:
        gradients["v"] = blend(v=dy, b=operands.b, **operands.weighing_layout)
    gradients["c"], gradients["b"] = sums(u=dy, v=v, center=center, **operands.layout)
    if center is not None:
        gradients["center"] = -operands.b * tf.cast(gradients["c"], center.dtype)
    return gradients


def in_order(gradients, tensors):
    """Gradients by name as a list in the order of these tensors, and in their dtypes."""
    return [tf.cast(gradients[name], tensor.dtype) for name, tensor in tensors.items()]


def _with_gradient(run, gradient_of, operands):
    given = operands.differentiable

    @tf.custom_gradient
    def op(*tensors):
        here = operands._replace(**dict(zip(given, tensors, strict=True)))

        results = run(here)

        def gradient(*of_results):
            return in_order(gradient_of(here, results, *of_results), given)

        return results, gradient

    return op(*given.values())
