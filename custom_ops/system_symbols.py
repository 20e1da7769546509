"""Which C and C++ libraries a compiled file needs, and whether older systems have them.

    python -m custom_ops.system_symbols FILE ...

prints the newest version of each that the files need, and fails where one is too new.
"""

import re
import sys
from pathlib import Path

from .compiler import BuildError, find_tool, output_of

# The tag of the wheel, and the newest versions that it promises to do with: PEP 600 for glibc, and
# what `auditwheel` knows of the systems that have it.
TAG = "manylinux_2_28"
LIMITS = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}


def needed_versions(path):
    """The newest version of each library's symbols: `{"GLIBC": (2, 14), ...}`."""
    objdump = find_tool("OBJDUMP", "objdump", "llvm-objdump")
    if objdump is None:
        raise BuildError("objdump was not found. Install binutils, or set OBJDUMP.")
    needed = {}
    listed = output_of([objdump.path, "-p", str(path)], Path(path).name)
    for name, version in re.findall(r"\b([A-Z]+)_(\d[\d.]*)\b", listed):
        if name in LIMITS:
            numbers = tuple(map(int, version.split(".")))
            needed[name] = max(needed.get(name, ()), numbers)
    return needed


def check(path):
    """Returns `needed_versions`.

    Raises:
        BuildError: if one is newer than systems of the wheel's tag have.
    """
    needed = needed_versions(path)
    if not needed:
        raise BuildError(f"objdump finds no versions of symbols in {Path(path).name}.")
    for name, version in needed.items():
        if version > LIMITS[name]:
            raise BuildError(
                f"{Path(path).name} needs {name}_{_text(version)}, and {TAG} has "
                f"{name}_{_text(LIMITS[name])}. See custom_ops/kernels/cpu/older_systems.h."
            )
    return needed


def _text(version):
    return ".".join(map(str, version))


def _main(paths):
    try:
        for path in paths:
            needed = ", ".join(f"{n}_{_text(v)}" for n, v in sorted(check(path).items()))
            print(f"{path}: {needed}: {TAG}")
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main(sys.argv[1:])
