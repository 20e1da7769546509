"""Finds the compiled library for JAX, checks that it can be trusted, and loads it at first use.

`custom_ops/jax_library.py` writes it: installing puts it beside that for TensorFlow,
`keras-norms build --for jax` into the user's cache. It fits every JAX that has its FFI. Nothing is
loaded from other folders, nor from those that other users can write to.
"""

import ctypes
import os
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import jax

from keras_norms.compiled.library_files import Refused, description, open_checked
from keras_norms.compiled.places import cache_root, check_way
from keras_norms.compiled.trust import trusted_users, up_to_home
from keras_norms.printable import printable
from keras_norms.version import __version__

_PACKAGE_FOLDER = Path(__file__).parents[1] / "ops" / "_native"
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


def package_folder():
    """Where installing puts the library."""
    return _PACKAGE_FOLDER / "jax"


def cache_folder():
    """Where `keras-norms build --for jax` puts it."""
    return cache_root() / f"{__version__}-jax"


def check_cache():
    """Raises `Refused` if a library would not be loaded from the cache, because of its owners."""
    folder = Path(os.path.realpath(cache_folder()))
    try:
        check_way(*_way_to_cache(folder))
    except Refused as refusal:
        raise Refused(f"In {printable(folder)} it {_for_jax(refusal)}", "") from refusal


def _find():
    """Loads the library of the package, or else of the cache; otherwise says why there is none."""
    if sys.platform != "linux":
        return NativeStatus(False, "The compiled library is for Linux.")
    reason = "The compiled library is not built. Build it with `keras-norms build --for jax`."
    for place, way_to in ((package_folder, _way_to_package), (cache_folder, _way_to_cache)):
        try:
            # Links are resolved first, so that the folder checked is the folder loaded from.
            folder = Path(os.path.realpath(place()))
            if folder.is_dir() and _load(folder, *way_to(folder)):
                return NativeStatus(True, f"Loaded from {printable(folder)}.")
        except Refused as refusal:
            reason = f"The compiled library in {printable(folder)} {_for_jax(refusal)}"
        except OSError as error:
            reason = f"The compiled library cannot be looked for: {printable(error)}."
    return NativeStatus(False, reason)


def _for_jax(refusal):
    """The message of a refusal, whose remedy may be the build for TensorFlow."""
    return str(refusal).replace("`keras-norms build`", "`keras-norms build --for jax`")


def _way_to_package(folder):
    """The folders to check, and whom to trust: also those who can change our Python files."""
    return (_PACKAGE_FOLDER, folder), trusted_users(__file__, _PACKAGE_FOLDER.parent)


def _way_to_cache(folder):
    return up_to_home(folder), trusted_users()


def _load(folder, way, trusted):
    """Registers the functions of the library in a folder, and says whether there is one."""
    check_way(way, trusted)
    built = description(folder, {"ffi": str}, trusted)
    if built is None:
        return False
    try:
        descriptor = open_checked(folder, "_native.so", built, trusted)
    except FileNotFoundError as error:
        missing = printable(os.path.basename(error.filename))
        raise Refused(f"is incomplete: {missing} is missing.") from error
    # The file that was checked, even if its path leads to another one by now. The descriptor stays
    # open, so that its number is never used for another library.
    path = f"/proc/self/fd/{descriptor}"
    try:
        library = ctypes.CDLL(path)
        handlers = {target: getattr(library, symbol) for target, symbol in TARGETS.items()}
        for target, handler in handlers.items():
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
    except Exception as error:  # JAX refuses a handler of another FFI with an error of XLA's.
        line = next(iter(str(error).splitlines()), type(error).__name__)
        name = os.path.basename(os.path.realpath(path))
        raise Refused(f"cannot be loaded: {printable(line.replace(path, name))}.") from error
    return True
