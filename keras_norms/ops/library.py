"""Finds the compiled library, checks that it fits, and loads it once, at first use.

A library is a folder of files that `custom_ops/build.py` writes, in one of the two places of
keras_norms/compiled/places.py. The folder is named after the minor version of TensorFlow, since C++
code fits one only.
"""

import ctypes
import os
import threading
import warnings
from typing import Any, NamedTuple

import tensorflow as tf

from keras_norms.compiled.library_files import Refused, check_fits, description, open_files, run
from keras_norms.compiled.places import Places
from keras_norms.printable import printable

_OPERATIONS = tuple(
    f"keras_norms_{name}" for name in ("moments", "extremes", "add_at", "sums", "blend", "round")
)
_FIELDS: dict[str, Any] = {
    "tensorflow": str,
    "xla": str,
    "cuda_runtime": (int, type(None)),
    "cuda_architectures": list,
}
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


def load():
    """Returns the `Library`; the first call finds and loads it."""
    with _lock:
        if not _loaded:
            _loaded.append(_find())
        return _loaded[0]


def ops():
    """Returns the module of the library's operations, or None without the library."""
    return load().ops


def places():
    """The `Places` of libraries for the installed TensorFlow."""
    return Places(f"tensorflow-{_minor()}", "keras-norms build")


def driver_version():
    """The newest CUDA runtime that the driver can serve, 13000 for 13.0; 0 without a driver."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value


@tf.autograph.experimental.do_not_convert
def _find():
    """Loads the library of the package, or else of the cache; otherwise says why there is none."""
    found, refusals, reason = places().find(_load)
    if found is not None:
        return found
    refusals += _others()
    if not refusals:
        return Library(None, reason)
    # Layers compute the same without it, so that nobody would notice.
    warnings.warn(f"keras_norms runs on plain TensorFlow. {refusals[0]}", stacklevel=2)
    return Library(None, refusals[0], is_refused=True)


def _others():
    """Why libraries in other folders do not fit. They are only read about, never loaded."""
    versions, refusals = set(), []
    try:
        ours = places().package(), places().cache()
        for folder in sorted(found for place in ours for found in place.parent.glob("*")):
            is_for_jax = folder.name.endswith("jax")  # Another matter: keras_norms/jax/library.py.
            if is_for_jax or folder in ours:
                continue
            try:
                built = description(folder, _FIELDS)
                if built is not None and _minor(built["tensorflow"]) == _minor():
                    raise Refused("lies in a folder of another version.")
                if built is not None:
                    versions.add(_minor(built["tensorflow"]))
            except Refused as refusal:
                refusals.append(f"The compiled library in {printable(folder)} {refusal}")
    except OSError:
        pass  # There are no others.
    if versions:
        names = ", ".join(map(printable, sorted(versions)))
        refusals.insert(
            0,
            f"The compiled libraries that are here are for TensorFlow {names}, and "
            f"{tf.__version__} is installed. Build one with `keras-norms build`.",
        )
    return refusals


def _load(folder, trusted):
    """Returns the `Library` in a folder, or None if there is none."""
    built, files = open_files(folder, _names, lambda: _description(folder, trusted), trusted)
    if built is None:
        return None
    _check_switches()
    module = run(files[0], tf.load_op_library)
    if not all(hasattr(module, name) for name in _OPERATIONS):
        raise Refused("has none of its operations in _native.so.")
    note = _why_no_gpu(built)
    if not note:
        try:
            run(files[1], tf.load_op_library)
        except Refused as refusal:
            note = f". Its CUDA library {refusal}"
    devices = ("CPU",) if note else ("CPU", "GPU")
    return Library(module, f"Loaded from {printable(folder)}{note or '.'}", devices, built)


def _description(folder, trusted=None):
    """What the library in a folder was built for, or None; refuses one for another TensorFlow."""
    built = description(folder, _FIELDS, trusted)
    if built is not None:
        check_fits("TensorFlow", _minor(built["tensorflow"]), _minor())
    return built


def _names(built):
    """The files to load."""
    return ["_native.so"] if _why_no_gpu(built) else ["_native.so", "_native_cuda.so"]


def _minor(version=None):
    """What the C++ interface of TensorFlow changes with: `"2.21"` of `"2.21.0"`."""
    return ".".join((version or tf.__version__).split(".")[:2])


def _why_no_gpu(built):
    """Why the GPU kernels must not be loaded, or "". Once registered they cannot be taken back."""
    needed, driver = built["cuda_runtime"], driver_version()
    if not needed:
        return ", built without CUDA."
    if driver < needed:
        found = f"is for {_release(driver)}" if driver else "is not there"
        return f". Its CUDA kernels need a driver for {_release(needed)}, which {found}."
    return ""


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
