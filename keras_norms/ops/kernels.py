"""The three kernels that every layer is made of, differentiable to any order.

    moments(x; w)                    count = sum w, mean, m2 = sum w (x - mean)^2
    sums(u, v, center; w)            sum w u, sum w u (v - center), and y in the same pass
    blend(u, v, a, b, c, center; w)  a u + w (b (v - center) + c)

Each is one pass over the activations it names. Their gradients are made of the same
three again, so a gradient of any order is as few passes. Which code computes
them is the choice of `native.py`; here are the gradients only.

Common arguments:
    axis: the channel axis, non-negative. Activations have one; see `ChannelView`.
    weights: None, or weights as `row_weights` makes them; constants. Where they are 0, an
        `x` or `v` that is not finite is read as the centre.
    weighted: whether the weights also weigh; otherwise they only tell what is invalid.
    segment_size: None, or rows per segment; the last segment takes the remainder.

Vectors are float64, `[channels]`, or `[segments, channels]` with a segment size.
"""

import tensorflow as tf

from keras_norms.ops.native import kernels_in_use
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


def constant_moments(x, *, axis, weights=None, segment_size=None):
    """The same without a gradient.

    TensorFlow keeps the gradient functions of each trace, and with them its graph, as long as the
    process lives: not for what is traced again and again, and never differentiated.
    """
    options = dict(axis=axis, weights=weights, segment_size=segment_size)
    return kernels_in_use().moments(tf.stop_gradient(x), **options)


def sums(
    u=None,
    v=None,
    center=None,
    *,
    scale=None,
    shift=None,
    axis,
    weights=None,
    weighted=False,
    segment_size=None,
):
    """Returns `sum w u` and, where `v` is given, `sum w u (v - center)`, else None.

    Without `u`, `u` is `v - center`. With `scale`, a third result is `y = scale u`, without `u`
    `y = scale (v - center) + shift`, from the same pass and without `w`.
    """
    options = dict(axis=axis, weights=weights, weighted=weighted, segment_size=segment_size)
    unweighted = dict(axis=axis, segment_size=segment_size)
    given = _present(u=u, v=v, center=center, scale=scale, shift=shift)

    @tf.custom_gradient
    def op(*tensors):
        tensors = dict(zip(given, tensors, strict=True))
        u, v, center, scale = (tensors.get(name) for name in ("u", "v", "center", "scale"))
        results = kernels_in_use().sums(**tensors, **options)

        def gradient(of_sum, of_product=None, dy=None):
            if v is None:
                return blend(v=u, b=tf.zeros_like(of_sum), c=of_sum, **options)
            own = 1.0 if u is not None else 2.0  # Without u, v - center is there squared.
            through_y = {} if dy is None else dict(u=dy, a=scale)
            d_own = blend(**through_y, v=v, b=own * of_product, c=of_sum, center=center, **options)
            if u is None:
                gradients = {"v": d_own}
                if center is not None:
                    gradients["center"] = -sums(d_own, **unweighted)[0]
                if scale is not None:
                    unweighed = {**options, "weighted": False}
                    gradients["shift"], gradients["scale"] = sums(dy, v, center, **unweighed)
            else:
                gradients = {"u": d_own, "v": blend(v=u, b=of_product, **_weighing(options))}
                if center is not None:
                    gradients["center"] = -of_product * sums(u, **_weighing(options))[0]
                if scale is not None:
                    gradients["scale"] = sums(dy, u, **unweighted)[1]
            return [tf.cast(gradients[name], given[name].dtype) for name in given]

        return tuple(result for result in results if result is not None), gradient

    results = op(*given.values())
    return results if v is not None else (results[0], None)


def blend(
    u=None,
    v=None,
    *,
    a=None,
    b=None,
    c=None,
    center=None,
    axis,
    weights=None,
    weighted=False,
    segment_size=None,
):
    """Returns `a u + w (b (v - center) + c)` in the dtype of `v`; each term is optional."""
    options = dict(axis=axis, weights=weights, weighted=weighted, segment_size=segment_size)
    unweighted = dict(axis=axis, segment_size=segment_size)
    given = _present(u=u, v=v, a=a, b=b, c=c, center=center)

    @tf.custom_gradient
    def op(*tensors):
        tensors = dict(zip(given, tensors, strict=True))
        u, v, center = (tensors.get(name) for name in ("u", "v", "center"))

        def gradient(dy):
            gradients = {}
            if u is not None:
                gradients["u"] = blend(v=dy, b=tensors["a"], **unweighted)
                gradients["a"] = sums(dy, u, **unweighted)[1]
            if v is not None:
                gradients["v"] = blend(v=dy, b=tensors["b"], **_weighing(options))
            gradients["c"], gradients["b"] = sums(dy, v, center, **options)
            if center is not None:
                gradients["center"] = -tensors["b"] * tf.cast(gradients["c"], center.dtype)
            return [tf.cast(gradients[name], given[name].dtype) for name in given]

        return kernels_in_use().blend(**tensors, **options), gradient

    return op(*given.values())


def _present(**tensors):
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _weighing(options):
    """Weights that only tell where `v` is invalid say nothing of another tensor."""
    return options if options["weighted"] else {**options, "weights": None}
