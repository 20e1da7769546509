"""Checks of arguments: one sentence with the rule, then what was received."""

import numbers

import numpy as np


def require(holds, owner, rule, **received):
    """Raises `ValueError` unless a rule holds: `owner: rule. Received: name=value.`"""
    if not holds:
        values = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise ValueError(f"{owner}: {rule}. Received: {values}.")


def is_bool(value):
    """Whether `value` is a bool, of NumPy too, or the 0 or 1 that a config may hold for one."""
    return isinstance(value, (bool, np.bool_)) or (is_int(value) and value in (0, 1))


def is_int(value):
    """Whether `value` is an int, not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_size(value):
    """Whether `value` is an int above 0."""
    return is_int(value) and value > 0


def is_number(value, low=-float("inf"), high=float("inf"), *, may_be_infinite=False):
    """Whether `value` is a real number in [low, high], finite by default, not a bool."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        value = float(value)
    except OverflowError:  # An int that no float holds.
        return False
    return low <= value <= high and (may_be_infinite or bool(np.isfinite(value)))


def plain(value):
    """`value` for JSON: lists for tuples and Keras 2's wrappers, Python numbers for NumPy's."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return value.item() if isinstance(value, np.generic) else value
