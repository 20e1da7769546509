"""Arrays and numbers as users give them: checked, and made JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np

from keras_norms.arguments import is_number, require

FLOATS = ("float16", "bfloat16", "float32", "float64")
_ARRAYS = (np.ndarray, np.generic, jax.Array)


def as_floats(name, value, owner, *, dtypes=FLOATS, shape=None):
    """An array of one of the dtypes, and of the shape if one is given."""
    array = _as_array(name, value, owner)
    rule = f"`{name}` must be a {', '.join(dtypes[:-1])} or {dtypes[-1]} array"
    if shape is not None:
        rule += f" of shape {shape}"
    fits = str(array.dtype) in dtypes and shape in (None, array.shape)
    require(fits, owner, rule, **received(name, array))
    return array


def as_numbers(name, value, owner):
    """An array of bools, ints or floats."""
    array = _as_array(name, _without_long_ints(value), owner)
    is_known = array.dtype == bool or str(array.dtype) in FLOATS
    fits = is_known or jnp.issubdtype(array.dtype, jnp.integer)
    rule = f"`{name}` must hold bools or non-negative numbers"
    require(fits, owner, rule, **received(name, array))
    return array


def as_number(value):
    """A float of a number, or of an array of shape () whose value is known; otherwise None."""
    value = _known(value)
    return float(value) if is_number(value) else None


def received(name, value):
    """What a message says of a value: a short one itself, the shape and dtype of an array."""
    value = _known(value)
    if isinstance(value, _ARRAYS):
        return {"shape": value.shape, "dtype": str(value.dtype)}
    return {name: value} if _is_short(value) else {"type": type(value).__name__}


def _as_array(name, value, owner):
    if isinstance(value, jax.Array):
        return value
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        array = None
    require(
        array is not None, owner, f"`{name}` must be an array of numbers", **received(name, value)
    )
    return array


def _without_long_ints(value):
    """Ints of NumPy or Python as floats: JAX, without 64 bits, would drop the upper half."""
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # Traced values in a list, or no array at all.
        return value
    return array.astype(np.float64) if array.dtype.kind in "iu" else value


def _is_short(value):
    if isinstance(value, (tuple, list)):
        return len(value) < 9 and all(isinstance(item, (str, int, float)) for item in value)
    return value is None or isinstance(value, (str, int, float, complex))


def _known(value):
    """The Python number of an array of shape (), unless it is traced."""
    if isinstance(value, jax.core.Tracer) or not isinstance(value, _ARRAYS):
        return value
    is_scalar = value.shape == () and jnp.issubdtype(value.dtype, jnp.number)
    return value.item() if is_scalar else value
