"""Files that are there as a whole or not at all."""

import os
import pathlib
import tempfile


def write_whole(path, content):
    """Writes bytes beside the path, and then in its place.

    Raises:
        OSError: if there is something else than a file that may be written, or no folder for it.
    """
    if os.fspath(path).endswith(os.sep):
        raise IsADirectoryError(f"{path} is a folder, not a file.")
    path = pathlib.Path(os.path.realpath(path))  # A link stays one.
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}.")
    if os.path.lexists(path) and not path.is_file():
        raise FileExistsError(f"{path} is no file that can be replaced.")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
    # The first holds for the superuser too, whom the second allows everything.
    if path.exists() and not (mode & 0o222 and os.access(path, os.W_OK)):
        raise PermissionError(f"{path} may not be written.")
    # A short name of its own, since that of the path may be as long as names can be.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, mode)  # mkstemp lets nobody else read.
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask():
    """Which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
