"""Which implementation of the kernels is in use, and why.

`auto` takes the compiled library only where it has a kernel for every kind of device that is
visible: a library without GPU kernels would drag activations from the GPU to the host and back.
"""

import os
from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops import library, native, reference
from keras_norms.ops.exporting import traces_for_export
from keras_norms.ops.scopes import Scope

IMPLEMENTATIONS = ("auto", "native", "reference")


class NativeStatus(NamedTuple):
    """What is known of the compiled library.

    Attributes:
        available: whether layers may run on it.
        reason: why not, or where it was loaded from.
        devices: the kinds of device it has kernels for.
        built_for: the TensorFlow version it was built for, or None.
        cuda_architectures: the GPU architectures it has code for, where that is loaded.
        xla: what it is in a program that XLA compiles: `"ffi"`, the same kernels on the CPU,
            `"hlo"`, operations for XLA to fuse, or None.
    """

    available: bool
    reason: str
    devices: tuple[str, ...] = ()
    built_for: str | None = None
    cuda_architectures: tuple[str, ...] = ()
    xla: str | None = None


_default = ["auto"]
_scope = Scope()


def native_status():
    """Returns a `NativeStatus`: whether the compiled kernels can be used, or why not.

    Example:

    >>> isinstance(keras_norms.native_status().reason, str)
    True
    """
    switch = os.environ.get("KERAS_NORMS_NATIVE", "1")
    if switch.lower() in ("0", "false", "off", "no"):
        reason = f"The compiled library is switched off by KERAS_NORMS_NATIVE={switch}."
        return NativeStatus(False, reason)
    found = library.load()
    if found.ops is None:
        return NativeStatus(False, found.reason)
    visible = {device.device_type for device in tf.config.get_visible_devices()}
    missing = sorted(visible - set(found.devices))
    built, reason = found.built, found.reason
    if missing:
        reason = f"The compiled library has no kernels for {', '.join(missing)}. {reason}"
    return NativeStatus(
        available=not missing,
        reason=reason,
        devices=found.devices,
        built_for=built["tensorflow"],
        cuda_architectures=tuple(built["cuda_architectures"]) if "GPU" in found.devices else (),
        xla="hlo" if os.environ.get("KERAS_NORMS_XLA") == "hlo" else built["xla"],
    )


def set_implementation(name):
    """Chooses the kernels of all layers: `"auto"`, `"native"` or `"reference"`.

    The choice acts when a layer is traced: a `tf.function` keeps the one it was traced with, and
    a model that has been trained keeps it until `model.compile` is called again. `"auto"` is the
    compiled library where it is available and has a kernel for every visible device, otherwise
    plain TensorFlow.

    Raises:
        ValueError: if the name is not one of the three.
        RuntimeError: for `"native"`, if the compiled library is not available.

    Example:

    >>> keras_norms.set_implementation("auto")
    """
    _default[0] = _checked(name)


def implementation(name):
    """The scoped form of `set_implementation`, for this thread and the replicas it runs.

    Example:

    >>> with keras_norms.implementation("reference"):
    ...     keras_norms.ops.batch_moments(tf.constant([[1.0], [3.0]])).mean.numpy()
    array([2.])
    """
    return _scope.holding(_checked(name))


def implementation_in_use():
    """Returns `"native"` or `"reference"`: what a layer traced now would run on."""
    chosen = _scope.value or _default[0]
    if chosen == "reference" or not native_status().available or traces_for_export():
        return "reference"
    return "native"


def kernels_in_use():
    """Returns the module that computes `moments`, `sums`, `blend` and `rounded`, without gradients.

    For the forward pass of what brings a gradient of its own; others call `kernels.py`.
    """
    return native if implementation_in_use() == "native" else reference


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
