"""Builds the compiled library for one TensorFlow, into one folder.

    _native-<hash>.so       CPU kernels, TensorFlow operations, XLA
    _native_cuda-<hash>.so  the same operations on a GPU; only where nvcc is found
    _native.json            what the two were built for; the loader reads it before it loads them

Files that include TensorFlow are compiled with its own flags and for its least processor. The
kernels include nothing of it, so they are compiled once for each level of the processor.
"""

import os
import platform
import re
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
from .tensorflow_package import installed_tensorflow

# Each is a namespace in `kernels/cpu/*_cpu.cc`; `dispatch.cc` picks one when the program runs.
# They are linked in this order: of an inline function that several define, the linker keeps the
# first, which must run on every processor.
LEVELS = {"baseline": ()}
if platform.machine() in ("x86_64", "AMD64"):
    LEVELS |= {"v3": ("-march=x86-64-v3",), "v4": ("-march=x86-64-v4",)}

_FLAGS = ("-std=c++17", "-O3", *(f"-I{folder}" for folder in INCLUDE_FOLDERS))
# The same bytes wherever the sources lie.
_HOST_FLAGS = ("-fPIC", "-Wall", "-Wextra", f"-ffile-prefix-map={ROOT}=custom_ops")


def build(output, version, *, tensorflow=None, cuda="auto", report=print):
    """Builds the library into the folder `output` and returns what `_native.json` says.

    Args:
        output: the folder; files of an earlier build there are replaced, in one moment.
        version: the version of keras_norms.
        tensorflow: the `TensorFlow` to build for. Defaults to `None`, the one that is installed.
        cuda: `"auto"` builds for CUDA if that is possible, `"require"` fails otherwise, `"skip"`
            builds for the CPU only.
        report: called with one line for each file.

    Raises:
        BuildError: without TensorFlow or a compiler, where a file does not compile, or the folder
            cannot be written.
    """
    output, tensorflow = Path(output), tensorflow or installed_tensorflow()
    compiler = find_tool("CXX", "g++", "c++", "clang++")
    if compiler is None:
        raise BuildError("No C++ compiler was found. Install g++, or set CXX.")
    description = {
        "keras_norms": version,
        "tensorflow": tensorflow.version,
        "xla": "ffi" if tensorflow.has_ffi else "hlo",
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


def _build_host(workshop, compiler, tensorflow):
    flags = ("-Wl,-z,defs", "-pthread", *tensorflow.link_flags)
    objects = workshop.compile(_host_units(compiler, tensorflow))
    return workshop.link("_native", compiler, objects, flags)


def _build_cuda(workshop, nvcc, compiler, tensorflow):
    flags = (f"-ccbin={compiler.path}", "-cudart=static", *tensorflow.link_flags)
    objects = workshop.compile(_cuda_units(nvcc, compiler, tensorflow))
    return workshop.link("_native_cuda", nvcc, objects, flags)


def _host_units(compiler, tensorflow):
    flags, ffi_flags = (*_FLAGS, *_HOST_FLAGS), tensorflow.ffi_flags
    against = tensorflow.version
    # The operations come first because they take longest.
    for source in _sources("ops/*.cc", but="gpu_kernels.cc"):
        all_flags = (*flags, *ffi_flags, *tensorflow.compile_flags, *tensorflow.host_flags)
        yield Unit(source, compiler, all_flags, against=against)
    if tensorflow.has_ffi:
        for source in _sources("xla_ffi/*.cc", but="_cuda.cc"):
            yield Unit(source, compiler, (*flags, *ffi_flags), against=against)
    yield from _cpu_units(compiler)


def _cpu_units(compiler):
    """The kernels for CPUs, which include nothing that others wrote."""
    flags = (*_FLAGS, *_HOST_FLAGS)
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
    if tensorflow.has_ffi:
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
