"""What setup.py does beyond setuptools: builds libraries, names the wheel, packs the same bytes.

Two switches decide, each `auto`, `require` or `skip`: KERAS_NORMS_BUILD_NATIVE and
KERAS_NORMS_BUILD_CUDA. Under `auto`, what cannot be built is left out and a warning says why.

KERAS_NORMS_BUILD_FOR is a folder of TensorFlow packages, as `custom_ops.tensorflow_package` makes:
the wheel then has a library for each of them and runs on older systems. Otherwise there is one
library, for the TensorFlow that is installed, and the wheel is for this machine.
"""

import gzip
import os
import shutil
import tarfile
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError

from . import system_symbols
from .build import build
from .compiler import BuildError
from .jax_library import build_for_jax, installed_headers
from .tensorflow_package import installed_tensorflow, tensorflows_in

# Tells setuptools that there is something to compile; the sources are found by build.py.
EXTENSION = Extension("keras_norms.ops._native", sources=[])
# What packages say they were made at, so that the same sources make the same bytes: 2020-01-01.
_EPOCH = 1577836800


class BuildNative(build_ext):
    """Builds libraries into the package: into the wheel, or beside the sources if editable."""

    def run(self):
        native, cuda = _mode("KERAS_NORMS_BUILD_NATIVE"), _mode("KERAS_NORMS_BUILD_CUDA")
        package = Path("." if self.inplace else self.build_lib, "keras_norms", "ops", "_native")
        if not self.inplace:
            # What an earlier build in this folder left would go into the wheel.
            shutil.rmtree(package, ignore_errors=True)
        if native == "skip":
            return
        try:
            for tensorflow in _tensorflows():
                folder = package / f"tensorflow-{tensorflow.minor}"
                version = self.distribution.get_version()
                build(folder, version, tensorflow=tensorflow, cuda=cuda)
                self._finish(folder)
        except BuildError as error:
            switch = _switch_that_requires(native, cuda)
            if switch:
                raise CompileError(f"{switch}: {error}") from error
            self.warn(
                f"keras_norms is installed without its compiled library. {error} "
                "Layers run on plain TensorFlow; `keras-norms build` builds the library later."
            )
        self._build_for_jax(package / "jax", native)

    def _build_for_jax(self, folder, native):
        """Builds the library for JAX; who has no JAX gets none."""
        try:
            headers = _ffi_headers()
        except BuildError:
            return
        try:
            build_for_jax(folder, self.distribution.get_version(), headers=headers)
            self._finish(folder)
        except BuildError as error:
            switch = _switch_that_requires(native, "auto")
            if switch:
                raise CompileError(f"{switch}: {error}") from error
            self.warn(
                f"keras_norms.jax is installed without its compiled library. {error} It runs on "
                "plain JAX; `keras-norms build --for jax` builds the library later."
            )

    def _finish(self, folder):
        """Leaves in the folder what goes into the wheel, and checks what everybody will load."""
        if not self.inplace:
            (folder / ".lock").unlink()
        if _is_for_all():
            for library in folder.glob("*.so"):
                system_symbols.check(library)

    def get_outputs(self):
        return []  # All of build_lib is installed.

    def get_output_mapping(self):
        return {}  # An editable install has them in place.


class PlatformWheel(bdist_wheel):
    """The libraries do not link to Python: one wheel serves every version of it."""

    def finalize_options(self):
        os.environ.setdefault("SOURCE_DATE_EPOCH", str(_EPOCH))
        super().finalize_options()

    def get_tag(self):
        machine = super().get_tag()[2]
        if _is_for_all():
            machine = machine.replace("linux", system_symbols.TAG, 1)
        return "py3", "none", machine


class SameSources(sdist):
    """An archive without times and users, in the order of names."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **kwargs):
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, **kwargs)

        def plain(member):
            member.mtime = _EPOCH
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            return member

        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=_EPOCH) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(Path(root_dir or ".", base_dir), base_dir, filter=plain)
        return str(path)


def _mode(variable):
    mode = os.environ.get(variable) or "auto"
    if mode not in ("auto", "require", "skip"):
        raise CompileError(f"{variable} must be auto, require or skip. Received: {mode!r}.")
    return mode


def _switch_that_requires(native, cuda):
    """The switch because of which a library that cannot be built is an error, or None."""
    if _is_for_all():
        return "KERAS_NORMS_BUILD_FOR"
    if native == "require":
        return "KERAS_NORMS_BUILD_NATIVE=require"
    return "KERAS_NORMS_BUILD_CUDA=require" if cuda == "require" else None


def _is_for_all():
    return bool(os.environ.get("KERAS_NORMS_BUILD_FOR"))


def _tensorflows():
    if _is_for_all():
        return tensorflows_in(os.environ["KERAS_NORMS_BUILD_FOR"])
    return [installed_tensorflow()]


def _ffi_headers():
    """JAX's, or in a wheel for everybody those of the newest TensorFlow.

    A library fits other versions of the FFI too, as long as XLA keeps them compatible.
    """
    return _tensorflows()[-1].include if _is_for_all() else installed_headers()
