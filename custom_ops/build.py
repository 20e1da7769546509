"""Builds the compiled library for the installed TensorFlow, into one folder.

    _native-<hash>.so       CPU kernels, TensorFlow operations, XLA
    _native_cuda-<hash>.so  the same operations on a GPU; only where nvcc is found
    _native.json            what the two were built for; the loader reads it before it loads them

Files that include TensorFlow are compiled with its own flags and for its least processor. The
kernels include nothing of it, so they are compiled once for each level of the processor.
"""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from .compiler import (
    INCLUDE_FOLDERS,
    ROOT,
    BuildError,
    Unit,
    Workshop,
    find_tool,
    hash_sources,
)
from .output_folder import building, publish

# Each is a namespace in `kernels/cpu/*_cpu.cc`; `dispatch.cc` picks one when the program runs.
# They are linked in this order: of an inline function that several define, the linker keeps the
# first, which must run on every processor.
LEVELS = {"baseline": ()}
if platform.machine() in ("x86_64", "AMD64"):
    LEVELS |= {"v3": ("-march=x86-64-v3",), "v4": ("-march=x86-64-v4",)}

_FLAGS = ("-std=c++17", "-O3", *(f"-I{folder}" for folder in INCLUDE_FOLDERS))
_HOST_FLAGS = ("-fPIC", "-Wall", "-Wextra")


@dataclass(frozen=True)
class TensorFlow:
    """What compiling and linking needs to know of the installed TensorFlow."""

    version: str
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    ffi_flags: tuple[str, ...] | None  # None where its XLA has no typed FFI.


def build(output, version, *, cuda="auto", report=print):
    """Builds the library into the folder `output` and returns what `_native.json` says.

    Args:
        output: the folder; files of an earlier build there are replaced, in one moment.
        version: the version of keras_norms.
        cuda: `"auto"` builds for CUDA if that is possible, `"require"` fails otherwise, `"skip"`
            builds for the CPU only.
        report: called with one line for each file.

    Raises:
        BuildError: without TensorFlow or a compiler, where a file does not compile, or the folder
            cannot be written.
    """
    output, tensorflow = Path(output), installed_tensorflow()
    compiler = find_tool("CXX", "g++", "c++", "clang++")
    if compiler is None:
        raise BuildError("No C++ compiler was found. Install g++, or set CXX.")
    description = {
        "keras_norms": version,
        "tensorflow": tensorflow.version,
        "xla": "hlo" if tensorflow.ffi_flags is None else "ffi",
        "cuda_runtime": None,
        "cuda_architectures": [],
        "compiler": compiler.version,
        "sources": hash_sources(),
    }
    try:
        with building(output, report) as scratch:
            workshop = Workshop(_objects_folder(scratch), report)
            made = {"_native.so": _build_host(workshop, compiler, tensorflow)}
            if cuda != "skip":
                try:
                    nvcc = _find_nvcc()
                    runtime, architectures = _cuda_runtime(nvcc), _cuda_architectures()
                    made["_native_cuda.so"] = _build_cuda(workshop, nvcc, compiler, tensorflow)
                except BuildError as error:
                    if cuda == "require":
                        raise
                    report(f"warning: built without CUDA. {error}")
                else:
                    description |= {"cuda_runtime": runtime, "cuda_architectures": architectures}
            publish(scratch, output, made, description)
    except OSError as error:
        raise BuildError(f"{output} cannot be written: {error}.") from error
    return description


def installed_tensorflow():
    """Returns the `TensorFlow` of this environment."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise BuildError(
            "TensorFlow is not installed where the library is built. Install it first and use "
            "`pip install --no-build-isolation`, or run `keras-norms build` afterwards."
        ) from error
    include = tf.sysconfig.get_include()
    # TensorFlow's headers warn; as system headers they are silent and our warnings stay visible.
    flags = ["-isystem", include]
    for folder in ("highwayhash", "farmhash_archive/src"):
        flags += ["-isystem", f"{include}/external/{folder}"]
    flags += [flag for flag in tf.sysconfig.get_compile_flags() if flag.startswith("-D")]
    has_ffi = Path(include, "xla/ffi/api/ffi.h").is_file()
    # No run path: Python's TensorFlow has loaded both libraries before it loads ours.
    libraries = ("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2")
    return TensorFlow(
        version=tf.__version__,
        compile_flags=tuple(flags),
        link_flags=(f"-L{tf.sysconfig.get_lib()}", *libraries),
        ffi_flags=("-DKERAS_NORMS_XLA_FFI=1", "-isystem", include) if has_ffi else None,
    )


def _build_host(workshop, compiler, tensorflow):
    flags = ("-Wl,-z,defs", "-pthread", *tensorflow.link_flags)
    objects = workshop.compile(_host_units(compiler, tensorflow))
    return workshop.link("_native", compiler, objects, flags)


def _build_cuda(workshop, nvcc, compiler, tensorflow):
    flags = (f"-ccbin={compiler.path}", "-cudart=static", *tensorflow.link_flags)
    objects = workshop.compile(_cuda_units(nvcc, compiler, tensorflow))
    return workshop.link("_native_cuda", nvcc, objects, flags)


def _host_units(compiler, tensorflow):
    flags, ffi_flags = (*_FLAGS, *_HOST_FLAGS), tensorflow.ffi_flags or ()
    against = tensorflow.version
    # The operations come first because they take longest.
    for source in _sources("ops/*.cc", but="gpu_kernels.cc"):
        all_flags = (*flags, *ffi_flags, *tensorflow.compile_flags)
        yield Unit(source, compiler, all_flags, against=against)
    if tensorflow.ffi_flags is not None:
        for source in _sources("xla_ffi/*.cc", but="_cuda.cc"):
            yield Unit(source, compiler, (*flags, *ffi_flags), against=against)
    for source in _sources("kernels/cpu/*.cc", but="_cpu.cc"):
        yield Unit(source, compiler, flags)
    for level, march in LEVELS.items():
        for source in _sources("kernels/cpu/*_cpu.cc"):
            yield Unit(source, compiler, (*flags, f"-DKERAS_NORMS_LEVEL={level}", *march), level)


def _cuda_units(nvcc, compiler, tensorflow):
    # nvcc hands `.cc` files to the host compiler and adds where the headers of CUDA are.
    flags = (*_FLAGS, f"-ccbin={compiler.path}", "-Xcompiler=" + ",".join(_HOST_FLAGS))
    against = tensorflow.version
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in _cuda_architectures()]
    last = _cuda_architectures()[-1]
    code.append(f"-gencode=arch=compute_{last},code=compute_{last}")
    for source in _sources("kernels/cuda/*.cu"):
        yield Unit(source, nvcc, (*flags, *code))
    for source in _sources("ops/gpu_kernels.cc"):
        yield Unit(source, nvcc, (*flags, *tensorflow.compile_flags), against=against)
    if tensorflow.ffi_flags is not None:
        for source in _sources("xla_ffi/*_cuda.cc"):
            yield Unit(source, nvcc, (*flags, *tensorflow.ffi_flags), against=against)


def _sources(pattern, but="\0"):
    return sorted(path for path in ROOT.glob(pattern) if not path.name.endswith(but))


def _find_nvcc():
    nvcc = find_tool("NVCC", "nvcc")
    if nvcc is None:
        raise BuildError("nvcc was not found. Install the CUDA toolkit, or set NVCC.")
    return nvcc


def _cuda_runtime(nvcc):
    """The version of the runtime that nvcc links, as CUDA writes it: 13000 for 13.0."""
    release = re.search(r"release (\d+)\.(\d+)", nvcc.version)
    if release is None:
        raise BuildError(f"nvcc does not tell its release. Received: {nvcc.version!r}.")
    return 1000 * int(release[1]) + 10 * int(release[2])


def _cuda_architectures():
    """Such as `["80", "90"]`; code for the last is also included in a form that newer GPUs run."""
    given = os.environ.get("KERAS_NORMS_CUDA_ARCHITECTURES") or "80;90"
    if not re.fullmatch(r"\d+[af]?(;\d+[af]?)*", given):
        raise BuildError(
            "KERAS_NORMS_CUDA_ARCHITECTURES must be numbers with `;` between them, such as 80;90. "
            f"Received: {given!r}."
        )
    return given.split(";")


def _objects_folder(scratch):
    """In a checkout objects are kept; an installed package keeps none."""
    checkout = ROOT.parent
    if (checkout / "setup.py").is_file() and os.access(checkout, os.W_OK):
        return checkout / "build" / "objects"
    return Path(scratch, "objects")
