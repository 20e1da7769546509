"""What setup.py does beyond setuptools: builds the library, and names the wheel for it.

Two switches decide, each `auto`, `require` or `skip`: KERAS_NORMS_BUILD_NATIVE and
KERAS_NORMS_BUILD_CUDA. Under `auto`, what cannot be built is left out and a warning says why.
"""

import os
import shutil
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

from .build import build, installed_tensorflow
from .compiler import BuildError

# Tells setuptools that there is something to compile; the sources are found by build.py.
EXTENSION = Extension("keras_norms.ops._native", sources=[])


class BuildNative(build_ext):
    """Builds the library into the package: into the wheel, or beside the sources if editable."""

    def run(self):
        native, cuda = _mode("KERAS_NORMS_BUILD_NATIVE"), _mode("KERAS_NORMS_BUILD_CUDA")
        package = Path("." if self.inplace else self.build_lib, "keras_norms", "ops", "_native")
        if not self.inplace:
            # What an earlier build in this folder left would go into the wheel.
            shutil.rmtree(package, ignore_errors=True)
        if native == "skip":
            return
        try:
            folder = package / f"tensorflow-{installed_tensorflow().version}"
            build(folder, self.distribution.get_version(), cuda=cuda)
            if not self.inplace:
                (folder / ".lock").unlink()  # Everything in the folder goes into the wheel.
        except BuildError as error:
            if "require" in (native, cuda):
                switch = (
                    "KERAS_NORMS_BUILD_NATIVE" if native == "require" else "KERAS_NORMS_BUILD_CUDA"
                )
                raise CompileError(f"{switch}=require: {error}") from error
            self.warn(
                f"keras_norms is installed without its compiled library. {error} "
                "Layers run on plain TensorFlow; `keras-norms build` builds the library later."
            )

    def get_outputs(self):
        return []  # All of build_lib is installed.

    def get_output_mapping(self):
        return {}  # An editable install has them in place.


class PlatformWheel(bdist_wheel):
    """The library does not link to Python: one wheel serves every version of it."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def _mode(variable):
    mode = os.environ.get(variable) or "auto"
    if mode not in ("auto", "require", "skip"):
        raise CompileError(f"{variable} must be auto, require or skip. Received: {mode!r}.")
    return mode
