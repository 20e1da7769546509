"""Builds the compiled kernels for JAX, into one folder: `_native-<hash>.so` and `_native.json`.

They are the XLA FFI handlers for CPUs, which include nothing of TensorFlow and link nothing of JAX:
only FFI headers are needed, and the library runs on every JAX that has the FFI of these headers.
"""

import re
from pathlib import Path

from .build import _FLAGS, _HOST_FLAGS, _cpu_units, _objects_folder, _sources
from .compiler import BuildError, Unit, Workshop, find_tool, hash_sources
from .output_folder import building, publish


def build_for_jax(output, version, *, headers=None, report=print):
    """Builds the library into the folder `output` and returns what `_native.json` says.

    Args:
        output: the folder; files of an earlier build there are replaced, in one moment.
        version: the version of keras_norms.
        headers: the folder that `xla/ffi/api/ffi.h` lies in; the installed JAX's by default.
        report: called with one line for each file.

    Raises:
        BuildError: without JAX or a compiler, where a file does not compile, or the folder cannot
            be written.
    """
    output, headers = Path(output), Path(headers or installed_headers())
    compiler = find_tool("CXX", "g++", "c++", "clang++")
    if compiler is None:
        raise BuildError("No C++ compiler was found. Install g++, or set CXX.")
    ffi = ffi_version(headers)
    description = {
        "keras_norms": version,
        "ffi": ffi,
        "compiler": compiler.version,
        "sources": hash_sources(),
    }
    # As system headers they are silent, and our warnings stay visible.
    flags = (*_FLAGS, *_HOST_FLAGS, "-isystem", str(headers))
    units = [Unit(path, compiler, flags, "JAX", ffi) for path in _sources("xla_ffi/*_host.cc")]
    try:
        with building(output, report) as scratch:
            workshop = Workshop(_objects_folder(scratch), report)
            objects = workshop.compile([*units, *_cpu_units(compiler)])
            linked = workshop.link("_native", compiler, objects, ("-Wl,-z,defs", "-pthread"))
            publish(scratch, output, {"_native.so": linked}, description)
    except OSError as error:
        raise BuildError(f"{output} cannot be written: {error}.") from error
    return description


def installed_headers():
    """The folder of the FFI headers that JAX brings."""
    try:
        import jax

        return jax.ffi.include_dir()
    except (ImportError, AttributeError) as error:
        raise BuildError(
            "JAX is not installed where the library is built, or is too old. Install it first, or "
            "run `keras-norms build --for jax` afterwards."
        ) from error


def ffi_version(headers):
    """The version of the FFI that these headers describe, such as `"0.3"`."""
    header = Path(headers, "xla", "ffi", "api", "c_api.h")
    try:
        text = header.read_text(encoding="utf-8")
    except OSError as error:
        raise BuildError(f"There are no FFI headers in {headers}: {error}.") from error
    numbers = re.findall(r"^#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", text, re.MULTILINE)
    if len(numbers) != 2:
        raise BuildError(f"The FFI headers do not tell their version. Received: {headers}.")
    return ".".join(numbers)
