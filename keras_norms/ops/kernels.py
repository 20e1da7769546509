"""The three kernels that every layer is made of, differentiable to any order.

    moments(x; w)                    count = sum w, mean, m2 = sum w (x - mean)^2
    sums(u, v, center; w)            sum w u, sum w u (v - center), and y in the same pass
    blend(u, v, a, b, c, center; w)  a u + w (b (v - center) + c)

Each is one pass over the activations it names. Their gradients are made of the same
three again, so a gradient of any order is as few passes. Which code computes them is the choice
of `choice.py`; here are the gradients only. Arguments are the fields of `Operands`.
"""

import tensorflow as tf

from keras_norms.ops.choice import kernels_in_use
from keras_norms.ops.operands import Operands
from keras_norms.ops.recall import recall


def moments(x, *, axis, weights=None, segment_size=None):
    """Returns count, mean and m2. The count has size 1 where all channels share it."""
    options = dict(axis=axis, weights=weights, segment_size=segment_size)

    def pullback(x, values, gradients):
        count, mean, _ = values
        _, mean_gradient, m2_gradient = gradients
        return blend(
            v=x,
            b=2.0 * m2_gradient,
            c=tf.math.divide_no_nan(mean_gradient, count),
            center=mean,
            weighted=weights is not None,
            **options,
        )

    return recall(kernels_in_use().moments(tf.stop_gradient(x), **options), x, pullback)


def sums(**operands):
    """Returns `sum w u` and, where `v` is given, `sum w u (v - center)`, else None.

    Without `u`, `u` is `v - center`. With `scale`, a third result is `y = scale u`, without `u`
    `y = scale (v - center) + shift`, from the same pass and without `w`.
    """
    operands = Operands(**operands)
    given = operands.differentiable
    unweighted = dict(axis=operands.axis, segment_size=operands.segment_size)

    @tf.custom_gradient
    def op(*tensors):
        here = operands._replace(**dict(zip(given, tensors, strict=True)))
        u, v, center, scale = here.u, here.v, here.center, here.scale
        results = kernels_in_use().sums(here)

        def gradient(of_sum, of_product=None, dy=None):
            layout = here.layout
            if v is None:
                return blend(v=u, b=tf.zeros_like(of_sum), c=of_sum, **layout)
            own = 1.0 if u is not None else 2.0  # Without u, v - center is there squared.
            through_y = {} if dy is None else dict(u=dy, a=scale)
            d_own = blend(**through_y, v=v, b=own * of_product, c=of_sum, center=center, **layout)
            if u is None:
                gradients = {"v": d_own}
                if center is not None:
                    gradients["center"] = -sums(u=d_own, **unweighted)[0]
                if scale is not None:
                    unweighed = {**layout, "weighted": False}
                    gradients["shift"], gradients["scale"] = sums(
                        u=dy, v=v, center=center, **unweighed
                    )
            else:
                gradients = {"u": d_own, "v": blend(v=u, b=of_product, **_weighing(layout))}
                if center is not None:
                    gradients["center"] = -of_product * sums(u=u, **_weighing(layout))[0]
                if scale is not None:
                    gradients["scale"] = sums(u=dy, v=u, **unweighted)[1]
            return [tf.cast(gradients[name], given[name].dtype) for name in given]

        return tuple(result for result in results if result is not None), gradient

    results = op(*given.values())
    return results if operands.v is not None else (results[0], None)


def blend(**operands):
    """Returns `a u + w (b (v - center) + c)` in the dtype of `v`; each term is optional."""
    operands = Operands(**operands)
    given = operands.differentiable
    unweighted = dict(axis=operands.axis, segment_size=operands.segment_size)

    @tf.custom_gradient
    def op(*tensors):
        here = operands._replace(**dict(zip(given, tensors, strict=True)))
        u, v, center = here.u, here.v, here.center

        def gradient(dy):
            layout, gradients = here.layout, {}
            if u is not None:
                gradients["u"] = blend(v=dy, b=here.a, **unweighted)
                gradients["a"] = sums(u=dy, v=u, **unweighted)[1]
            if v is not None:
                gradients["v"] = blend(v=dy, b=here.b, **_weighing(layout))
            gradients["c"], gradients["b"] = sums(u=dy, v=v, center=center, **layout)
            if center is not None:
                gradients["center"] = -here.b * tf.cast(gradients["c"], center.dtype)
            return [tf.cast(gradients[name], given[name].dtype) for name in given]

        return kernels_in_use().blend(here), gradient

    return op(*given.values())


def _weighing(layout):
    """Weights that only tell where `v` is invalid say nothing of another tensor."""
    return layout if layout["weighted"] else {**layout, "weights": None}
