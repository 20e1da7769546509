"""The three kernels of the compiled library: one TensorFlow operation each.

Signatures and meaning are those of `reference.py`. A mask per channel, which the
library does not know, and activations of different dtypes run there.
"""

import tensorflow as tf

from keras_norms.ops import library, reference


def moments(x, *, axis, weights=None, segment_size=None):
    if not _are_row_weights(weights, axis):
        return reference.moments(x, axis=axis, weights=weights, segment_size=segment_size)
    return library.ops().keras_norms_moments(
        x=x, weights=_optional(weights), axis=axis, segment_size=segment_size or 0
    )


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
    vectors = dict(center=center, scale=scale, shift=shift)
    options = dict(axis=axis, weighted=weighted)
    if not _are_row_weights(weights, axis) or not _have_one_dtype(u, v):
        return reference.sums(
            u, v, weights=weights, segment_size=segment_size, **vectors, **options
        )
    sum_u, sum_uv, y = library.ops().keras_norms_sums(
        u=_optional(u),
        v=_optional(v),
        weights=_optional(weights),
        segment_size=segment_size or 0,
        **_of_one_dtype(vectors),
        **options,
    )
    found = sum_u, sum_uv[0] if sum_uv else None
    return found if scale is None else (*found, y[0])


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
    vectors = dict(a=a, b=b, c=c, center=center)
    options = dict(axis=axis, weighted=weighted)
    if not _are_row_weights(weights, axis) or not _have_one_dtype(u, v):
        return reference.blend(
            u, v, weights=weights, segment_size=segment_size, **vectors, **options
        )
    return library.ops().keras_norms_blend(
        u=_optional(u),
        v=_optional(v),
        weights=_optional(weights),
        segment_size=segment_size or 0,
        **_of_one_dtype(vectors),
        **options,
    )


def _optional(tensor):
    """An optional operand of the library's operations: a list of one tensor, or of none."""
    return [] if tensor is None else [tensor]


def _of_one_dtype(vectors):
    """Optional vectors, in float64 where they are of different dtypes."""
    if not _have_one_dtype(*vectors.values()):
        vectors = {k: t if t is None else tf.cast(t, tf.float64) for k, t in vectors.items()}
    return {name: _optional(vector) for name, vector in vectors.items()}


def _are_row_weights(weights, axis):
    return weights is None or weights.shape[axis] == 1


def _have_one_dtype(*tensors):
    return len({tensor.dtype for tensor in tensors if tensor is not None}) <= 1
