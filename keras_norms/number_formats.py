"""Rounds tensors to small number formats, to see what a network would do on hardware with them.

`quantize` rounds each value to a floating-point format, `block_floating_point` gives neighbours a
shared exponent. Both keep the dtype and the shape, and let gradients pass straight through.
"""

import tensorflow as tf

from keras_norms.arguments import is_bool, is_int, is_size, require
from keras_norms.ops.float_format import FORMATS as FORMATS
from keras_norms.ops.float_format import FloatFormat as FloatFormat
from keras_norms.ops.float_format import format_of
from keras_norms.ops.rounding import ALIGNMENTS, DTYPES, ROUNDINGS, Rounding, rounded

__all__ = ["FORMATS", "FloatFormat", "block_floating_point", "quantize"]


def quantize(x, format, rounding="nearest_even", subnormals=True, gradient_format=None, seed=None):
    """Rounds every value of `x` to a floating-point format, and keeps the dtype.

        y = sign(x) * min(quantum * round(|x| / quantum), largest)
        quantum = 2^(max(exponent of x, emin) - mantissa_bits)

    Use it to train or run with the numbers that a small format has. It saves no memory: `y` is as
    large as `x`. NaN and infinities stay as they are, finite values saturate at `largest`, and the
    sign of zero is kept.

    Args:
        x: tensor of float16, bfloat16, float32 or float64, of any shape. Where the dtype is
            narrower than the format, values saturate at the largest one that both have.
        format: a `FloatFormat`, or a name of `FORMATS`.
        rounding: `"nearest_even"`; `"truncate"`, toward zero; or `"stochastic"`, away from zero
            with a probability of the share of the quantum that is cut off, so that the mean is
            that of `x`. Defaults to `"nearest_even"`.
        subnormals: whether the format has values below its smallest normal one. If not, values
            are rounded as if exponents went on, then those below it become 0. Defaults to `True`.
        gradient_format: a format that the gradient is rounded to, in the same way. Defaults to
            `None`: the gradient passes as it is.
        seed: int, or scalar int tensor, for stochastic rounding: the same seed rounds the same
            tensor in the same way on every device. Defaults to `None`: another one at every run,
            from TensorFlow's global generator, which `tf.random.set_seed` sets.

    Returns:
        A tensor like `x`. Its gradient is that of the identity (straight-through).

    Raises:
        ValueError: if an argument is none of those above.

    Example:

    >>> x = tf.constant([1.03, 1.09, -1.97, 1e5, 3e-6])
    >>> keras_norms.number_formats.quantize(x, "fp10_154").numpy().tolist()
    [1.0, 1.0625, -2.0, 63488.0, 3.814697265625e-06]

    Reference: Noh et al., "LightNorm", 2022, arXiv 2211.02686, which truncates.
    """
    x = _floats(x, "quantize")
    _require_choice("rounding", rounding, ROUNDINGS, "quantize")
    rule = "`subnormals` must be a bool"
    require(is_bool(subnormals), "quantize", rule, subnormals=subnormals)
    forward = Rounding(format_of(format, "quantize"), rounding, bool(subnormals))
    backward = None
    if gradient_format is not None:
        of_gradient = format_of(gradient_format, "quantize", "gradient_format")
        backward = forward._replace(format=of_gradient)
    axis = max((x.shape.rank or 1) - 1, 0)
    return rounded(x, axis, forward, backward, _seed(seed))


def block_floating_point(
    x, mantissa_bits, block_size, axis=-1, alignment="largest", gradient_mantissa_bits=None
):
    """Gives blocks of values along an axis a shared exponent, as in block floating point.

        value = sign(x) * quantum * floor(|x| / quantum),  quantum = 2^(shared - mantissa_bits + 1)

    A value with the shared exponent keeps `mantissa_bits` bits, with the leading 1; a smaller one
    keeps fewer, or becomes 0. Zeros have no exponent; NaN and infinities stay as they are and take
    no part.

    Args:
        x: tensor of float16, bfloat16, float32 or float64, rank 1 or more.
        mantissa_bits: bits of a value with the shared exponent, with the leading 1; 2 to 24.
        block_size: consecutive positions along `axis` that share an exponent, at most the size of
            the axis. The last block takes what is left.
        axis: the axis of the blocks. Defaults to `-1`.
        alignment: `"largest"`: the shared exponent is the largest one of the block.
            `"second_largest"`: it is the second largest, and values with the largest exponent stay
            as they are, so that an outlier does not wipe out its block; where two values have
            the largest one, that is shared. Defaults to `"largest"`.
        gradient_mantissa_bits: the same for the gradient, in blocks of the same size. Defaults to
            `None`: the gradient passes as it is.

    Returns:
        A tensor like `x`. Its gradient is that of the identity (straight-through).

    Raises:
        ValueError: if an argument is none of those above.

    Example:

    >>> x = tf.constant([8.5, 1.1875, 0.40625, 0.03125])
    >>> bfp = keras_norms.number_formats.block_floating_point
    >>> bfp(x, mantissa_bits=5, block_size=4).numpy().tolist()
    [8.5, 1.0, 0.0, 0.0]
    >>> bfp(x, mantissa_bits=5, block_size=4, alignment="second_largest").numpy().tolist()
    [8.5, 1.1875, 0.375, 0.0]

    Reference: Noh et al., "LightNorm", 2022, arXiv 2211.02686; its published code aligns to the
    second largest exponent.
    """
    owner = "block_floating_point"
    x = _floats(x, owner)
    axis = _axis(x, axis, owner)
    _require_bits("mantissa_bits", mantissa_bits, owner)
    size = x.shape[axis]
    require(
        is_size(block_size) and (size is None or block_size <= max(size, 1)),
        owner,
        "`block_size` must be a positive int, at most the size of the axis",
        block_size=block_size,
        size=size,
    )
    _require_choice("alignment", alignment, ALIGNMENTS, owner)
    forward = Rounding(
        block_size=int(block_size), block_mantissa_bits=int(mantissa_bits), alignment=alignment
    )
    backward = None
    if gradient_mantissa_bits is not None:
        _require_bits("gradient_mantissa_bits", gradient_mantissa_bits, owner)
        backward = forward._replace(block_mantissa_bits=int(gradient_mantissa_bits))
    return rounded(x, axis, forward, backward)


def _floats(x, owner):
    x = tf.convert_to_tensor(x)
    rule = "`x` must be float16, bfloat16, float32 or float64"
    require(x.dtype in DTYPES, owner, rule, dtype=x.dtype.name)
    return x


def _axis(x, axis, owner):
    rank = x.shape.rank
    require(rank is not None and rank > 0, owner, "`x` must have a known rank above 0", rank=rank)
    rule = f"`axis` must be an int in [-{rank}, {rank}) for an input of rank {rank}"
    require(is_int(axis) and -rank <= axis < rank, owner, rule, axis=axis)
    return int(axis) % rank


def _require_choice(name, value, choices, owner):
    rule = f"`{name}` must be one of {', '.join(map(repr, choices))}"
    require(isinstance(value, str) and value in choices, owner, rule, **{name: value})


def _require_bits(name, value, owner):
    rule = f"`{name}` must be an int in [2, 24]"
    require(is_int(value) and 2 <= value <= 24, owner, rule, **{name: value})


def _seed(seed):
    """A scalar int64 tensor, or None."""
    if seed is None:
        return None
    if tf.is_tensor(seed):
        fits = seed.dtype.is_integer and seed.shape.rank in (0, None)
    else:
        fits = is_int(seed) and -(2**63) <= seed < 2**63
    rule = "`seed` must be None, an int of 64 bits or a scalar int tensor"
    require(fits, "quantize", rule, seed=seed)
    return tf.cast(seed, tf.int64) if tf.is_tensor(seed) else tf.constant(int(seed), tf.int64)
