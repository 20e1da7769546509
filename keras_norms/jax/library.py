"""Finds the compiled library for JAX, checks that it can be trusted, and loads it at first use.

`custom_ops/jax_library.py` writes it, into one of the two places of keras_norms/compiled/places.py.
It fits every JAX that has its FFI.
"""

import ctypes
import os
import threading
import warnings
from typing import NamedTuple

import jax

from keras_norms.compiled.library_files import description, open_files, run
from keras_norms.compiled.places import Places
from keras_norms.printable import printable

# The names under which JAX calls the library's functions.
TARGETS = {
    "keras_norms_moments_pairs": "KerasNormsMomentsPairsHost",
    "keras_norms_sums_pairs": "KerasNormsSumsPairsHost",
    "keras_norms_blend_pairs": "KerasNormsBlendPairsHost",
}
_lock = threading.Lock()
_found: list["NativeStatus"] = []


class NativeStatus(NamedTuple):
    """What is known of the compiled library.

    Attributes:
        available: whether functions traced now run on it, on a CPU.
        reason: why not, or where it was loaded from.
    """

    available: bool
    reason: str


def native_status():
    """Returns a `NativeStatus`: whether the compiled kernels can be used, or why not.

    Without them, and on other devices than CPUs, plain JAX computes the same. The choice is made
    when a function is traced.

    Example:

    >>> isinstance(keras_norms.jax.native_status().reason, str)
    True
    """
    switch = os.environ.get("KERAS_NORMS_NATIVE", "1")
    if switch.lower() in ("0", "false", "off", "no"):
        reason = f"The compiled library is switched off by KERAS_NORMS_NATIVE={switch}."
        return NativeStatus(False, reason)
    with _lock:
        if not _found:
            _found.append(_find())
        return _found[0]


def places():
    """The `Places` of libraries for JAX."""
    return Places("jax", "keras-norms build --for jax")


def _find():
    """Loads the library of the package, or else of the cache; otherwise says why there is none."""
    found, refusals, reason = places().find(_load)
    if found is None and refusals:
        # The functions compute the same without it, so that nobody would notice.
        warnings.warn(f"keras_norms.jax runs on plain JAX. {refusals[0]}", stacklevel=2)
    return found or NativeStatus(False, refusals[0] if refusals else reason)


def _load(folder, trusted):
    """Registers the functions of the library in a folder; returns None if there is none."""
    built, files = open_files(
        folder,
        lambda built: ["_native.so"],
        lambda: description(folder, {"ffi": str}, trusted),
        trusted,
    )
    if built is None:
        return None
    run(files[0], _register)
    return NativeStatus(True, f"Loaded from {printable(folder)}.")


def _register(path):
    library = ctypes.CDLL(path)
    handlers = {target: getattr(library, symbol) for target, symbol in TARGETS.items()}
    for target, handler in handlers.items():
        # Refuses a handler of another FFI.
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
