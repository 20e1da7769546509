"""Which implementation of the kernels is in use, and why.

The compiled library is not part of this version: every layer runs on
`reference.py`, and `native_status` says so.
"""

import contextlib
import threading
from typing import NamedTuple

from keras_norms.ops import reference

IMPLEMENTATIONS = ("auto", "native", "reference")


class NativeStatus(NamedTuple):
    """What is known of the compiled library.

    Attributes:
        available: whether layers may run on it.
        reason: one sentence; why it is not available, or what it was built from.
        devices: the kinds of device it has kernels for.
        built_for: the TensorFlow version it was built for, or None.
    """

    available: bool
    reason: str
    devices: tuple[str, ...]
    built_for: str | None


class _Choice(threading.local):
    """Per thread, so that a scoped choice does not leak into other threads' traces."""

    scoped: str | None = None


_choice = _Choice()
_default = ["auto"]


def native_status():
    """Returns a `NativeStatus`: whether the compiled kernels can be used, or why not.

    Example:

    >>> keras_norms.native_status().available
    False
    """
    return NativeStatus(False, "The compiled library is not built.", (), None)


def set_implementation(name):
    """Chooses the kernels of all layers: `"auto"`, `"native"` or `"reference"`.

    The choice acts when a layer is traced: a compiled `tf.function` keeps the one it was
    traced with. `"auto"` is the compiled library where it is available and has a kernel for
    every visible device, otherwise plain TensorFlow.

    Raises:
        ValueError: if the name is not one of the three.
        RuntimeError: for `"native"`, if the compiled library is not available.

    Example:

    >>> keras_norms.set_implementation("auto")
    """
    _default[0] = _checked(name)


@contextlib.contextmanager
def implementation(name):
    """The scoped form of `set_implementation`, for the current thread.

    Example:

    >>> with keras_norms.implementation("reference"):
    ...     keras_norms.ops.batch_moments(tf.constant([[1.0], [3.0]])).mean.numpy()
    array([2.])
    """
    previous, _choice.scoped = _choice.scoped, _checked(name)
    try:
        yield
    finally:
        _choice.scoped = previous


def implementation_in_use():
    """Returns `"native"` or `"reference"`: what a layer traced now would run on."""
    chosen = _choice.scoped or _default[0]
    if chosen == "native" or (chosen == "auto" and native_status().available):
        return "native"
    return "reference"


def kernels_in_use():
    """Returns the module that computes `moments`, `sums` and `blend`, without gradients."""
    return reference


def _checked(name):
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"The implementation must be one of {', '.join(map(repr, IMPLEMENTATIONS))}. "
            f"Received: {name!r}."
        )
    status = native_status()
    if name == "native" and not status.available:
        raise RuntimeError(f"The native implementation cannot be used. {status.reason}")
    return name
