"""Rounding in plain TensorFlow, on bit patterns: the same bits on every device.

Threads of TensorFlow take subnormal numbers for 0, so nothing here is computed with the values
themselves. A pattern without its sign, read as an integer, grows with the value, and adding one
unit in the last place to it carries into the exponent as it should. All integers are int64, which
every kind of device computes with. float16 and bfloat16 are seen as float32, which holds them.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops.layout import full_shape

_LOW_32 = (1 << 32) - 1
_NONE = -(10**6)  # The exponent of what has none: 0, infinity and NaN.


class _Storage(NamedTuple):
    """The floating-point type that patterns are of."""

    mantissa_bits: int
    emax: int

    def pattern(self, exponent):
        """The pattern of `2^exponent`, 0 where that is too small."""
        biased, bits = exponent + self.emax, self.mantissa_bits
        if biased > 0:
            return biased << bits
        return 1 << (bits - 1 + biased) if bits - 1 + biased >= 0 else 0

    @property
    def infinity(self):
        return self.pattern(self.emax + 1)


def rounds_straight_through(x):
    """Whether TensorFlow takes the gradient of `rounded` for that of the identity: never."""
    del x
    return False


def rounded(x, axis, rounding, seed):
    """`x` rounded to the format, then in blocks along `axis`; see `rounding.py`."""
    storage = _Storage(52, 1023) if x.dtype == tf.float64 else _Storage(23, 127)
    bits = _bits_of(x)
    sign_bit = 63 if x.dtype == tf.float64 else 31
    magnitude = bits & ((1 << sign_bit) - 1)
    sign = bits - magnitude
    result = magnitude
    if rounding.format is not None:
        result = _to_format(result, storage, x.dtype, rounding, seed)
    if rounding.block_size is not None:
        result = _in_blocks(result, storage, axis, rounding)
    result = _tensor_of(sign + result, x.dtype)
    return tf.where(magnitude < storage.infinity, result, x)


def _bits_of(x):
    """The pattern of float64 or float32 values; the 32 bits of the latter are not negative."""
    if x.dtype == tf.float64:
        return tf.bitcast(x, tf.int64)
    if x.dtype == tf.bfloat16:
        return tf.cast(tf.bitcast(x, tf.uint16), tf.int64) * (1 << 16)
    bits = tf.cast(tf.bitcast(tf.cast(x, tf.float32), tf.int32), tf.int64)
    return bits & ((1 << 32) - 1)


def _tensor_of(bits, dtype):
    if dtype == tf.float64:
        return tf.bitcast(bits, tf.float64)
    if dtype == tf.bfloat16:
        return tf.bitcast(tf.cast(_shift_right(bits, 16), tf.uint16), tf.bfloat16)
    signed = _where(bits < 1 << 31, bits, bits - (1 << 32))
    return tf.cast(tf.bitcast(tf.cast(signed, tf.int32), tf.float32), dtype)


def _where(condition, values, others):
    return tf.where(
        condition, tf.convert_to_tensor(values, tf.int64), tf.convert_to_tensor(others, tf.int64)
    )


def _shift_right(values, count):
    return tf.bitwise.right_shift(values, tf.cast(count, tf.int64))


def _shift_left(values, count):
    return tf.bitwise.left_shift(values, tf.cast(count, tf.int64))


def _split(magnitude, storage):
    """The biased exponent and the significand: the value is its multiple of the last place."""
    biased = _shift_right(magnitude, storage.mantissa_bits)
    fraction = magnitude & ((1 << storage.mantissa_bits) - 1)
    return biased, _where(biased > 0, fraction + (1 << storage.mantissa_bits), fraction)


def _to_format(magnitude, storage, dtype, rounding, seed):
    """Rounds to multiples of the last place of the format, then saturates or flushes to 0."""
    target, bits = rounding.format, storage.mantissa_bits
    biased, significand = _split(magnitude, storage)
    # Without subnormals, values up to one binade below the smallest normal one may still reach it.
    lowest = target.emin if rounding.subnormals else target.emin - 1
    lowest_biased = lowest + storage.emax
    below = _where(biased > 0, tf.maximum(lowest_biased - biased, 0), lowest_biased - 1)
    dropped = tf.maximum(below + bits - target.mantissa_bits, 0)  # Bits of the significand.
    # From two more bits on than there are, nothing is left and nothing rounds up.
    few = tf.minimum(dropped, bits + 2)
    kept = _shift_right(significand, few)
    if rounding.rounding == "nearest_even":
        half = _shift_right(_shift_left(tf.ones_like(few), few), 1)
        is_odd = kept & 1
        kept = _shift_right(significand + tf.maximum(half - 1, 0) + is_odd * _sign(few), few)
    elif rounding.rounding == "stochastic":
        kept += tf.cast(_random(seed, magnitude) < _discarded(significand, dropped, bits), tf.int64)
    result = magnitude + _shift_left(kept, few) - significand
    result = _where(dropped > bits + 1, storage.pattern(lowest - target.mantissa_bits), result)
    result = _where(kept > 0, result, 0)
    if not rounding.subnormals:
        result = _where(result < storage.pattern(target.emin), 0, result)
    result = tf.minimum(result, _largest(storage, dtype, target))
    return _where(magnitude < storage.infinity, result, magnitude)


def _sign(count):
    return tf.cast(count > 0, tf.int64)


def _largest(storage, dtype, target):
    """The pattern of the largest value that the format and the dtype have in common."""
    mantissa_bits = min(target.mantissa_bits, {tf.float16: 10, tf.bfloat16: 7}.get(dtype, 52))
    emax = min(target.emax, 15 if dtype == tf.float16 else storage.emax)
    return storage.pattern(emax + 1) - (1 << (storage.mantissa_bits - mantissa_bits))


def _discarded(significand, dropped, bits):
    """What is cut off, as a share of the last place that is kept, in units of 2^-32."""
    left = _shift_left(significand, tf.maximum(32 - dropped, 0))
    right = _shift_right(significand, tf.clip_by_value(dropped - 32, 0, bits + 1))
    return _low(_where(dropped < 32, left, right))


def _random(seed, like):
    """32 random bits for each position: a hash of the seed and the position."""
    shape = tf.shape(like)
    position = tf.reshape(tf.range(tf.size(like, tf.int64), dtype=tf.int64), shape)
    seed = tf.cast(seed, tf.int64)
    key = _mixed(_low(seed) ^ _mixed(_low(_shift_right(seed, 32)) ^ _mixed(_upper(position))))
    return _mixed(_low(_mixed(_low(position) ^ key) + _mixed(_low(key + 0x9E3779B9))))


def _low(values):
    return values & _LOW_32


def _upper(position):
    return _low(_shift_right(position, 32) + 0x3C6EF372)


def _mixed(values):
    """A permutation of 32-bit numbers in which every bit depends on every other one."""
    values = values ^ _shift_right(values, 16)
    values = _low(values * 0x7FEB352D)
    values = values ^ _shift_right(values, 15)
    values = _low(values * 0x846CA68B)
    return values ^ _shift_right(values, 16)


def _in_blocks(magnitude, storage, axis, rounding):
    """Cuts values off at the last place of their block."""
    sizes = full_shape(magnitude)
    size = rounding.block_size
    blocks = -(-sizes[axis] // size)
    padding = [[0, blocks * size - n if i == axis else 0] for i, n in enumerate(sizes)]
    blocked = [*sizes[:axis], blocks, size, *sizes[axis + 1 :]]
    values = tf.reshape(tf.pad(magnitude, padding), blocked)
    biased, significand = _split(values, storage)
    exponent = _exponent(values, biased, significand, storage)
    first = tf.reduce_max(exponent, axis + 1, keepdims=True)
    shared, untouched = first, tf.zeros_like(values, tf.bool)
    if rounding.alignment == "second_largest":
        untouched = exponent == first
        often = tf.reduce_sum(tf.cast(untouched, tf.int64), axis + 1, keepdims=True)
        second = tf.reduce_max(_where(untouched, _NONE, exponent), axis + 1, keepdims=True)
        shared = _where(often > 1, first, second)
    bits = storage.mantissa_bits
    last_place = shared - (rounding.block_mantissa_bits - 1)
    dropped = tf.clip_by_value(last_place + bits - tf.maximum(biased, 1), 0, bits + 1)
    kept = _shift_right(significand, dropped)
    cut = _where(kept > 0, values + _shift_left(kept, dropped) - significand, 0)
    cut = _where(untouched, values, cut)
    cut = tf.reshape(cut, [blocks * size if i == axis else n for i, n in enumerate(sizes)])
    return tf.slice(cut, [0] * len(sizes), sizes)


def _exponent(magnitude, biased, significand, storage):
    """The biased exponent, of subnormal values too, as if the type had none of them."""
    of_integer = _shift_right(tf.bitcast(tf.cast(significand, tf.float64), tf.int64), 52) - 1023
    exponent = tf.maximum(biased, 1) + of_integer - storage.mantissa_bits
    takes_part = tf.logical_and(magnitude > 0, magnitude < storage.infinity)
    return _where(takes_part, exponent, _NONE)
