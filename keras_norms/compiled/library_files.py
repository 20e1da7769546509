"""The files of a compiled library: what they were built for, and whether they are intact.

    _native.json              what the library was built for, and the SHA-256 of its files
    _native-<hash>.so         CPU kernels; the name has the first 16 digits of the file's SHA-256
    _native_cuda-<hash>.so    GPU kernels, if built with CUDA

The same name always means the same content, so files of two builds never mix.
"""

import hashlib
import json
import os
import re
import stat
from typing import Any

from keras_norms.compiled.trust import stranger
from keras_norms.printable import printable
from keras_norms.version import __version__

REBUILD = "Rebuild it with `{command}`."
KEEP_PRIVATE = (
    "Only you and root may be able to write there: use `chmod go-w`, or set KERAS_NORMS_CACHE to a "
    "folder of your own and run `{command}`."
)
_LONGEST_DESCRIPTION = 16384  # Bytes; it has less than 1000.
_FIELDS: dict[str, Any] = {"keras_norms": str, "sources": str, "files": dict}


class Refused(Exception):
    """There is a library that cannot be used; the message says why and what to do about it.

    Args:
        why: what is wrong with it.
        remedy: what to do, with `{command}` for the command that builds such a library.
    """

    def __init__(self, why, remedy=REBUILD):
        self.why, self.remedy = why, remedy
        super().__init__(self.text("keras-norms build"))

    def text(self, command):
        """The message, with the command that builds such a library."""
        return f"{self.why} {self.remedy.format(command=command)}".strip()


def description(folder, fields, trusted=None):
    """Returns what `_native.json` in the folder says, or None if there is none.

    Args:
        folder: where a library may be.
        fields: what it must say besides what every library does: `{name: type}`.
        trusted: the users that may be able to change the file. None means everybody, which is
            enough for an error message, not for loading.

    Raises:
        Refused: if it is of another keras_norms, cannot be read, or can be changed by others.
    """
    try:
        with os.fdopen(_opened(folder / "_native.json", trusted), "rb") as file:
            built = json.loads(file.read(_LONGEST_DESCRIPTION))
        if not isinstance(built, dict):
            raise ValueError("it holds no JSON object")
        wrong = [n for n, t in (_FIELDS | fields).items() if not isinstance(built.get(n, ...), t)]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"has no readable _native.json: {printable(error)}.") from error
    if not wrong and not all(map(_is_digest, built["files"].values())):
        wrong = ["files"]
    if wrong:
        raise Refused(f"has no readable _native.json: {wrong[0]!r} is missing or of a wrong type.")
    check_fits("keras_norms", built["keras_norms"], __version__)
    return built


def _is_digest(value):
    """Whether it is a SHA-256 in hexadecimal, a part of which is in the name of a file."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def check_fits(name, version, here):
    """Raises `Refused` if a library was built for another version than the one that is here."""
    if version != here:
        raise Refused(f"was built for {name} {printable(version)}, and {here} is installed.")


def open_files(folder, names, describe, trusted):
    """Opens the files of a library, all of one build, and compares their hashes.

    Args:
        folder: where the library may be.
        names: what it is to have, as a function of what it was built for: `["_native.so"]`.
        describe: returns what it was built for, see `description`.
        trusted: the users that may be able to change the files.

    Returns:
        What the library was built for and the descriptors of its files, or None and `()`.

    Raises:
        Refused: if a file is missing, is not what was built, or can be changed by others.
    """
    for _ in range(2):
        built = describe()
        if built is None:
            return None, ()
        try:
            return built, [_open_checked(folder, name, built, trusted) for name in names(built)]
        except FileNotFoundError as error:
            # A build that has just ended replaced the files and the description: read it again.
            missing = printable(os.path.basename(error.filename))
    raise Refused(f"is incomplete: {missing} is missing.")


def run(descriptor, load):
    """Returns `load(path)` of the file that was checked, even if its path leads elsewhere by now.

    The descriptor stays open, so that its number is never used for another library.
    """
    path = f"/proc/self/fd/{descriptor}"
    try:
        return load(path)
    except Exception as error:  # Frameworks raise errors of their own, which all mean the same.
        line = next(iter(str(error).splitlines()), type(error).__name__)
        name = os.path.basename(os.path.realpath(path))
        raise Refused(f"cannot be loaded: {printable(line.replace(path, name))}.") from error


def _open_checked(folder, name, built, trusted):
    """Returns the descriptor of a file after comparing its hash."""
    digest = str(built["files"].get(name))
    path = folder / name.replace(".so", f"-{digest[:16]}.so")
    descriptor = _opened(path, trusted)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        if hashlib.sha256(file.read()).hexdigest() == digest:
            return descriptor
    os.close(descriptor)
    raise Refused(f"is damaged: {printable(path.name)} is not what was built.")


def refuse_strangers(path, status, trusted):
    """Raises `Refused` if anybody else can change the file or folder that `status` describes."""
    found = stranger(status, trusted)
    if found:
        raise Refused(f"is not loaded: {found} can change {printable(path)}.", KEEP_PRIVATE)


def _opened(path, trusted):
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # Does not wait if it is a pipe.
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        if trusted is not None:
            refuse_strangers(path, status, trusted)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
