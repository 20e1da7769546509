"""Finds the compiled library, checks that it fits, and loads it once, at first use.

A library is a folder of files that `custom_ops/build.py` writes. Installing puts it beside this
file, `keras-norms build` into the user's cache; both name the folder after the minor version of
TensorFlow, since C++ code fits one only. Nothing is loaded from other folders, nor from those that
other users can write to.
"""

import ctypes
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from keras_norms.compiled.library_files import (
    Refused,
    check_fits,
    description,
    open_checked,
)
from keras_norms.compiled.places import cache_root, check_way
from keras_norms.compiled.trust import trusted_users, up_to_home
from keras_norms.printable import printable
from keras_norms.version import __version__

PACKAGE_FOLDER = Path(__file__).parent / "_native"
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


def package_folder():
    """Where installing puts the library for the installed TensorFlow."""
    return PACKAGE_FOLDER / f"tensorflow-{_minor()}"


def cache_folder():
    """Where `keras-norms build` puts it."""
    return cache_root() / f"{__version__}-tensorflow-{_minor()}"


def check_cache():
    """Raises `Refused` if a library would not be loaded from the cache, because of its owners."""
    folder = Path(os.path.realpath(cache_folder()))
    try:
        check_way(*_way_to_cache(folder))
    except Refused as refusal:
        raise Refused(f"In {printable(folder)} it {refusal}", "") from refusal


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
    if sys.platform != "linux":
        return Library(None, "The compiled library is for Linux.")
    reason, refusals = "The compiled library is not built. Build it with `keras-norms build`.", []
    for place, way_to in ((package_folder, _way_to_package), (cache_folder, _way_to_cache)):
        try:
            # Links are resolved first, so that the folder checked is the folder loaded from.
            folder = Path(os.path.realpath(place()))
            found = _load(folder, *way_to(folder)) if folder.is_dir() else None
        except Refused as refusal:
            refusals.append(f"The compiled library in {printable(folder)} {refusal}")
        except OSError as error:
            reason = f"The compiled library cannot be looked for: {printable(error)}."
        else:
            if found is not None:
                return found
    refusals += _others()
    return Library(None, refusals[0], is_refused=True) if refusals else Library(None, reason)


def _way_to_package(folder):
    """The folders to check, and whom to trust: also those who can change our Python files."""
    return (PACKAGE_FOLDER, folder), trusted_users(__file__, PACKAGE_FOLDER.parent)


def _way_to_cache(folder):
    return up_to_home(folder), trusted_users()


def _others():
    """Why libraries in other folders do not fit. They are only read about, never loaded."""
    versions, refusals = set(), []
    try:
        for folder in sorted((*PACKAGE_FOLDER.glob("*"), *cache_root().glob("*"))):
            is_for_jax = folder.name.endswith("jax")  # Another matter: keras_norms/jax/library.py.
            if is_for_jax or folder in (package_folder(), cache_folder()):
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


def _load(folder, way, trusted):
    """Returns the `Library` in a folder, or None if there is none."""
    check_way(way, trusted)
    built, files = _open(folder, trusted)
    if built is None:
        return None
    _check_switches()
    module = _run(files[0])
    if not all(hasattr(module, name) for name in _OPERATIONS):
        raise Refused("has none of its operations in _native.so.")
    note = _why_no_gpu(built)
    if not note:
        try:
            _run(files[1])
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


def _minor(version=None):
    """What the C++ interface of TensorFlow changes with: `"2.21"` of `"2.21.0"`."""
    return ".".join((version or tf.__version__).split(".")[:2])


def _open(folder, trusted):
    """Returns what the library was built for and the descriptors of its files, all of one build."""
    for _ in range(2):
        built = _description(folder, trusted)
        if built is None:
            return None, ()
        names = ["_native.so"] if _why_no_gpu(built) else ["_native.so", "_native_cuda.so"]
        try:
            return built, [open_checked(folder, name, built, trusted) for name in names]
        except FileNotFoundError as error:
            # A build that has just ended replaced the files and the description: read it again.
            missing = printable(os.path.basename(error.filename))
    raise Refused(f"is incomplete: {missing} is missing.")


def _why_no_gpu(built):
    """Why the GPU kernels must not be loaded, or "". Once registered they cannot be taken back."""
    needed, driver = built["cuda_runtime"], driver_version()
    if not needed:
        return ", built without CUDA."
    if driver < needed:
        found = f"is for {_release(driver)}" if driver else "is not there"
        return f". Its CUDA kernels need a driver for {_release(needed)}, which {found}."
    return ""


def _run(descriptor):
    """Loads the file that was checked, even if its path leads to another one by now.

    The descriptor stays open, so that its number is never used for another library.
    """
    path = f"/proc/self/fd/{descriptor}"
    try:
        return tf.load_op_library(path)
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        name = os.path.basename(os.path.realpath(path))
        raise Refused(f"cannot be loaded: {printable(line.replace(path, name))}.") from error


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
