"""Metadata is in setup.cfg; here is what it cannot say: sources as package data, and a library."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).parent))  # A build backend does not have it there.

from custom_ops.setuptools_commands import (  # noqa: E402
    EXTENSION,
    BuildNative,
    PlatformWheel,
    SameSources,
)

setup(
    # The sources travel along, so that `keras-norms build` works after any install.
    packages=[*find_packages(include=["keras_norms*"]), "keras_norms.custom_ops"],
    package_dir={"keras_norms.custom_ops": "custom_ops"},
    package_data={"keras_norms.custom_ops": ["**/*.h", "**/*.cc", "**/*.cu", "**/*.cuh"]},
    ext_modules=[EXTENSION],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel, "sdist": SameSources},
)
