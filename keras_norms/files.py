"""Files that are there as a whole or not at all."""

import os
import pathlib
import tempfile


def write_whole(path, content):
    """Writes bytes beside the path, and then in its place."""
    path = pathlib.Path(os.path.realpath(path))  # A link stays one.
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}.")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, mode)  # mkstemp lets nobody else read.
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
