"""The folder that a build writes: one build at a time, all of its files or none.

    _native-<hash>.so, ...    named by the first 16 digits of their SHA-256: same name, same content
    _native.json              names the files; it is renamed into place last, which publishes them
    .lock                     locked by the running build; the system unlocks it whatever happens
    .building-...             the running build's temporary files

An interrupted build leaves the previous library intact. What it did not finish is named nowhere, so
it is never loaded, and the next build removes it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def building(output, report):
    """Waits until no other build is running, then yields a temporary folder inside `output`."""
    _make_private(output)
    with open(output / ".lock", "w") as lock:
        _acquire(lock, report)
        for left in output.glob(".building-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=output) as scratch:
            yield Path(scratch)


def publish(scratch, output, made, description):
    """Moves the files `made`, `{"_native.so": path, ...}`, into place and removes all older ones.

    Processes that have loaded the older ones keep them.
    """
    names, description["files"] = ["_native.json"], {}
    for name, path in made.items():
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        description["files"][name] = digest
        names.append(name.replace(".so", f"-{digest[:16]}.so"))
        _put(scratch, output / names[-1], content)
    _put(scratch, output / "_native.json", (json.dumps(description, indent=2) + "\n").encode())
    for path in output.glob("_native*"):
        if path.name not in names:
            path.unlink()


def _put(scratch, path, content):
    temporary = scratch / path.name
    temporary.write_bytes(content)
    temporary.chmod(temporary.stat().st_mode & ~0o022)
    os.replace(temporary, path)


def _make_private(folder):
    """Creates a folder that only its owner can write to: the loader trusts no other."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)


def _acquire(lock, report):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report("Another build into this folder is running. Waiting for it to end.")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        # Some network file systems have no locks. Without one, the worst is that a build fails.
        report(
            f"warning: {lock.name} cannot be locked ({error.strerror}). Run one build at a time."
        )
