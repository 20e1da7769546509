"""The TensorFlow that a library is built for: the headers and libraries of its Python package.

`installed_tensorflow()` is that of this environment. A wheel has a library for each of `RELEASES`,
whose packages are downloaded into a folder and not installed:

    python -m custom_ops.tensorflow_package FOLDER
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .compiler import BuildError

# The minor versions that the package admits, as setup.cfg says, and the release that the wheel's
# library is built for. Patches of a minor version have the same C++ interface.
RELEASES = {
    "2.15": "2.15.1",
    "2.16": "2.16.2",
    "2.17": "2.17.1",
    "2.18": "2.18.1",
    "2.19": "2.19.1",
    "2.20": "2.20.0",
    "2.21": "2.21.0",
}
# What each of their wheels was compiled with; `tf.sysconfig.get_compile_flags()` says the same.
_DEFINITIONS = ("-D_GLIBCXX_USE_CXX11_ABI=1", "-DEIGEN_MAX_ALIGN_BYTES=64")
_LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")
# Each minor version has wheels for this Python. Its headers and libraries are the same for all.
_PYTHON = "3.11"


@dataclass(frozen=True)
class TensorFlow:
    """What compiling and linking needs to know of a TensorFlow.

    Attributes:
        version: its version, such as `"2.21.0"`.
        folder: its package, which has `include` and two libraries.
        definitions: what it was compiled with and what includes it must be compiled with.
    """

    version: str
    folder: Path
    definitions: tuple[str, ...] = _DEFINITIONS

    @property
    def minor(self):
        return minor_of(self.version)

    @property
    def include(self):
        return self.folder / "include"

    @property
    def has_ffi(self):
        """Whether its XLA calls compiled functions with typed arguments, and brings the header."""
        return (self.include / "xla/ffi/api/ffi.h").is_file()

    @property
    def compile_flags(self):
        # TensorFlow's headers warn: as system headers they are silent and our warnings are seen.
        external = ("external/highwayhash", "external/farmhash_archive/src")
        folders = (self.include, *(self.include / name for name in external))
        include = [flag for folder in folders for flag in ("-isystem", str(folder))]
        # As TensorFlow was: checks in its headers call functions that not every version exports.
        minor = f"-DKERAS_NORMS_TENSORFLOW_MINOR={self.minor.split('.')[1]}"
        return (*include, *self.definitions, "-DNDEBUG", minor)

    @property
    def host_flags(self):
        """Of the host compiler only: messages in the headers name no folder of this machine."""
        return (f"-ffile-prefix-map={self.include}=tensorflow",)

    @property
    def ffi_flags(self):
        """What the FFI handlers need; none where there is no typed FFI."""
        return ("-DKERAS_NORMS_XLA_FFI=1", "-isystem", str(self.include)) if self.has_ffi else ()

    @property
    def link_flags(self):
        # No run path: Python's TensorFlow has loaded both libraries before it loads ours.
        return (f"-L{self.folder}", *(f"-l:{name}" for name in _LIBRARIES))


def minor_of(version):
    """`"2.21"` of `"2.21.0"`: what the C++ interface of TensorFlow changes with."""
    return ".".join(version.split(".")[:2])


def installed_tensorflow():
    """Returns the `TensorFlow` of this environment.

    Raises:
        BuildError: if there is none.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise BuildError(
            "TensorFlow is not installed where the library is built. Install it first and use "
            "`pip install --no-build-isolation`, or run `keras-norms build` afterwards."
        ) from error
    flags = tf.sysconfig.get_compile_flags()
    definitions = tuple(flag for flag in flags if flag.startswith("-D"))
    return TensorFlow(tf.__version__, Path(tf.sysconfig.get_lib()), definitions)


def downloaded_tensorflow(release, folder, report=print):
    """Returns the `TensorFlow` of a release, which pip downloads into `folder` the first time.

    It is not installed: only the headers and the two libraries are unpacked, 1.5 GB.

    Raises:
        BuildError: if it cannot be downloaded or unpacked.
    """
    unpacked = Path(folder, release)
    if not unpacked.is_dir():
        report(f"downloading TensorFlow {release}, 0.6 GB")
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                with zipfile.ZipFile(_download(release, scratch)) as wheel:
                    wheel.extractall(Path(scratch, release), filter(_is_needed, wheel.namelist()))
                os.replace(Path(scratch, release), unpacked)
        except (OSError, zipfile.BadZipFile) as error:
            message = f"TensorFlow {release} cannot be unpacked into {folder}: {error}."
            raise BuildError(message) from error
    return TensorFlow(release, unpacked / "tensorflow")


def tensorflows_in(folder):
    """Returns the `TensorFlow` of each of `RELEASES`, which `folder` must have.

    Raises:
        BuildError: if one is missing.
    """
    found = [TensorFlow(name, Path(folder, name, "tensorflow")) for name in RELEASES.values()]
    for tensorflow in found:
        if not (tensorflow.include / "tensorflow").is_dir():
            raise BuildError(
                f"TensorFlow {tensorflow.version} must be in {folder}. Download it with "
                f"`python -m custom_ops.tensorflow_package {folder}`."
            )
    return found


def _download(release, folder):
    command = ["pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", folder]
    command += ["--python-version", _PYTHON, f"tensorflow=={release}"]
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    wheels = list(Path(folder).glob("*.whl"))
    if result.returncode or not wheels:
        lines = result.stderr.strip().splitlines() or ["pip says nothing."]
        raise BuildError(f"pip cannot download TensorFlow {release}: {lines[-1]}")
    return wheels[0]


def _is_needed(name):
    return name.startswith("tensorflow/include/") or name.removeprefix("tensorflow/") in _LIBRARIES


def _main(arguments):
    if len(arguments) != 1:
        sys.exit("usage: python -m custom_ops.tensorflow_package FOLDER")
    try:
        for release in RELEASES.values():
            downloaded_tensorflow(release, arguments[0])
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main(sys.argv[1:])
