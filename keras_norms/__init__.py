"""Batch normalization for TensorFlow and Keras where batches are small, split or padded."""

import os
import sys

from keras_norms.version import __version__ as __version__


def _is_command():
    """Whether this process is `keras-norms`, whose `--help` should not wait for TensorFlow."""
    return os.path.basename((sys.argv or [""])[0]) in ("keras-norms", "keras-norms.exe")


if not _is_command():
    from keras_norms.api import *  # noqa: F403


def __getattr__(name):
    """Where the import above was left out, the first use of a public name makes up for it."""
    import importlib

    try:
        return getattr(importlib.import_module("keras_norms.api"), name)
    except AttributeError:
        raise AttributeError(f"module 'keras_norms' has no attribute {name!r}") from None
