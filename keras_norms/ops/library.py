"""Finds the compiled library, checks that it fits, and loads it once, at first use.

A library is a folder of files that `custom_ops/build.py` writes. It is looked for beside this
file, where installing puts it, and then in the user's cache, where `keras-norms build`
does; in both under the version of TensorFlow, since C++ code fits one version only.
"""

import ctypes
import json
import os
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from keras_norms.version import __version__

PACKAGE_FOLDER = Path(__file__).parent / "_native"
# What `_native.json` says besides the two versions.
_DESCRIBED: dict[str, Any] = {
    "xla": str,
    "cuda_runtime": (int, type(None)),
    "cuda_architectures": list,
    "sources": str,
    "bytes": dict,
}
_MISSING = object()
_OPERATIONS = ("keras_norms_moments", "keras_norms_sums", "keras_norms_blend")
_lock = threading.Lock()
_loaded: list["Library"] = []


class Library(NamedTuple):
    """What came of looking for the library.

    Attributes:
        ops: the module of its operations, or None.
        reason: why that is None, or where it was loaded from.
        devices: the kinds of device that the operations run on.
        built: what the library was built for, as `_native.json` says, or None.
        is_refused: whether there is a library, but none that can be used.
    """

    ops: Any
    reason: str
    devices: tuple[str, ...] = ()
    built: dict[str, Any] | None = None
    is_refused: bool = False


class _Refused(Exception):
    """A library is there and cannot be used; the message says why."""


def load():
    """Returns the `Library`; the first call finds and loads it."""
    with _lock:
        if not _loaded:
            _loaded.append(_find())
        return _loaded[0]


def ops():
    """Returns the module of the library's operations, or None without the library."""
    return load().ops


def package_folder():
    """Where installing puts the library for the installed TensorFlow."""
    return PACKAGE_FOLDER / f"tensorflow-{tf.__version__}"


def cache_folder():
    """Where `keras-norms build` puts it."""
    return _cache_root() / f"{__version__}-tensorflow-{tf.__version__}"


def driver_version():
    """The newest CUDA runtime that the driver can serve, 13000 for 13.0; 0 without a driver."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value


def _find():
    refusals = []
    try:
        others = (*sorted(PACKAGE_FOLDER.glob("*")), *sorted(_cache_root().glob("*")))
    except OSError as error:
        return Library(None, f"The compiled library cannot be looked for: {error}.")
    # Libraries for other versions are refused, and tell why there is none that fits.
    for folder in dict.fromkeys((package_folder(), cache_folder(), *others)):
        try:
            built = _description(folder)
            if built is not None:
                return _load(folder, built)
        except _Refused as refusal:
            refusals.append(f"The compiled library in {folder} {refusal}")
    if refusals:
        reason = f"{refusals[0]} Rebuild it with `keras-norms build`."
        return Library(None, reason, is_refused=True)
    return Library(None, "The compiled library is not built. Build it with `keras-norms build`.")


def _description(folder):
    """What the library there was built for, or None where there is no library."""
    try:
        built = json.loads((folder / "_native.json").read_text(encoding="utf-8"))
        found = {"TensorFlow": built["tensorflow"], "keras_norms": built["keras_norms"]}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Refused(f"has no readable _native.json: {error!r}.") from error
    for name, installed in (("TensorFlow", tf.__version__), ("keras_norms", __version__)):
        if found[name] != installed:
            raise _Refused(f"was built for {name} {found[name]}, and {installed} is installed.")
    for name, kinds in _DESCRIBED.items():
        if not isinstance(built.get(name, _MISSING), kinds):
            raise _Refused(f"has no readable _native.json: {name!r} is missing or of a wrong type.")
    return built


def _load(folder, built):
    _check_switches()
    module = _open(folder / "_native.so", built)
    if not all(hasattr(module, name) for name in _OPERATIONS):
        raise _Refused("has none of its operations in _native.so.")
    needed, driver = built.get("cuda_runtime"), driver_version()
    if not needed:
        return Library(module, f"Loaded from {folder}, built without CUDA.", ("CPU",), built)
    # A kernel once registered cannot be taken back, so what cannot run is not loaded.
    if driver < needed:
        found = f"is for {_release(driver)}" if driver else "is not there"
        note = f"Its CUDA kernels need a driver for {_release(needed)}, which {found}."
        return Library(module, f"Loaded from {folder}. {note}", ("CPU",), built)
    try:
        _open(folder / "_native_cuda.so", built)
    except _Refused as refusal:
        note = f"Its CUDA library {refusal}"
        return Library(module, f"Loaded from {folder}. {note}", ("CPU",), built)
    return Library(module, f"Loaded from {folder}.", ("CPU", "GPU"), built)


def _open(path, built):
    # A file that was cut off would end the process when it is mapped.
    expected = built.get("bytes", {}).get(path.name)
    if path.is_file() and path.stat().st_size != expected:
        raise _Refused(f"is damaged: {path.name} has {path.stat().st_size} bytes, not {expected}.")
    try:
        return tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise _Refused(f"cannot be loaded: {lines[0]}.") from error


def _check_switches():
    """Warns of what the library's own code would ignore."""
    for name, known in (("CPU", ("v4", "v3", "baseline")), ("XLA", ("ffi", "hlo"))):
        value = os.environ.get(f"KERAS_NORMS_{name}")
        if value is not None and value not in known:
            warnings.warn(
                f"KERAS_NORMS_{name} must be one of {', '.join(known)}; it is ignored. "
                f"Received: {value!r}.",
                stacklevel=2,
            )


def _release(version):
    """13000 as CUDA's users write it."""
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def _cache_root():
    chosen = os.environ.get("KERAS_NORMS_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(chosen or "~/.cache").expanduser().absolute() / "keras_norms"
