"""Files that are there as a whole or not at all."""

import os
import pathlib
import tempfile


def write_whole(path, content):
    """Writes bytes beside the path, and then in its place."""
    path = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp lets nobody else read.
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
