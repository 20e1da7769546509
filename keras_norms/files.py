"""Atomic file writes."""

import os
import pathlib
import secrets

from keras_norms.printable import printable


def write_whole(path, content):
    """Writes bytes beside the path and then renames them into place, so no reader sees half a file.

    Raises:
        OSError: if the path cannot be written: a folder, a file that may not be changed, or a
            missing folder.
    """
    if os.fspath(path).endswith(os.sep):
        raise IsADirectoryError(f"{printable(path)} is a folder, not a file.")
    path = pathlib.Path(os.path.realpath(path))  # A link stays one.
    if path.is_dir():
        raise IsADirectoryError(f"{printable(path)} is a folder, not a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {printable(path.parent)}.")
    if os.path.lexists(path) and not path.is_file():
        raise FileExistsError(f"{printable(path)} is not a file that can be replaced.")
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    # The first holds for the superuser too, whom the second allows everything.
    if mode is not None and not (mode & 0o222 and os.access(path, os.W_OK)):
        raise PermissionError(f"{printable(path)} may not be written.")
    # A short name of its own, since that of the path may be as long as names can be.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with open(temporary, "xb") as file:
        try:
            if mode is not None:
                os.fchmod(file.fileno(), mode)  # Before there is anything to read.
            file.write(content)
            file.flush()
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
