"""The studies behind docs/results. README.md says what each one asks and how to run it."""

import contextlib
import os


@contextlib.contextmanager
def _quiet():
    """Drops what TensorFlow's libraries log while they load, before a log level applies."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


with _quiet():
    import tensorflow  # noqa: F401
