"""What rounding has to give: NumPy in float64 for single values, plain loops for blocks."""

import math

import numpy as np

# Explicit mantissa bits and largest exponent of the dtypes.
DTYPES = {"float16": (10, 15), "bfloat16": (7, 127), "float32": (23, 127), "float64": (52, 1023)}


def quantized(x, format, dtype, rounding="nearest_even", subnormals=True):
    """`x`, float64 values that `dtype` holds, rounded to the format."""
    mantissa_bits, emax = DTYPES[dtype]
    largest = (2 - 2.0 ** -min(mantissa_bits, format.mantissa_bits)) * 2.0 ** min(emax, format.emax)
    magnitude = np.where(np.isfinite(x), np.abs(x), 0.0)
    exponent = np.frexp(magnitude)[1] - 1
    if subnormals:
        exponent = np.maximum(exponent, format.emin)
    last_place = exponent - format.mantissa_bits
    to_int = {"nearest_even": np.rint, "truncate": np.floor, "up": np.ceil}[rounding]
    with np.errstate(over="ignore"):  # What becomes infinite saturates.
        y = np.ldexp(to_int(np.ldexp(magnitude, -last_place)), last_place)
    y = np.minimum(y, largest)
    if not subnormals:
        y = np.where(y < format.smallest_normal, 0.0, y)
    return np.where(np.isfinite(x), np.copysign(y, x), x)


def in_blocks(x, mantissa_bits, block_size, axis, alignment):
    """Float64 values of any rank in blocks along an axis, one block after the other."""
    y = np.moveaxis(np.array(x, np.float64), axis, -1).copy()
    rows = y.reshape(math.prod(y.shape[:-1]), y.shape[-1])  # A view.
    for row in rows:
        for start in range(0, len(row), block_size):
            block = row[start : start + block_size]
            block[:] = _aligned(block.tolist(), mantissa_bits, alignment)
    return np.moveaxis(rows.reshape(y.shape), -1, axis)


def _aligned(block, mantissa_bits, alignment):
    exponents = [
        math.frexp(value)[1] - 1 if value != 0 and math.isfinite(value) else None for value in block
    ]
    ordered = sorted((e for e in exponents if e is not None), reverse=True)
    if not ordered or (alignment == "second_largest" and len(ordered) == 1):
        return block
    shared = ordered[1] if alignment == "second_largest" else ordered[0]
    return [
        value
        if exponent is None or (alignment == "second_largest" and exponent == ordered[0])
        else _kept(value, exponent, mantissa_bits - 1 - (shared - exponent))
        for value, exponent in zip(block, exponents, strict=True)
    ]


def _kept(value, exponent, explicit_bits):
    """With this many mantissa bits after the leading 1."""
    if explicit_bits < 0:
        return math.copysign(0.0, value)
    last_place = exponent - explicit_bits
    return math.ldexp(math.trunc(math.ldexp(value, -last_place)), last_place)
