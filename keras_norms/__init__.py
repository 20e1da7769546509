"""Batch normalization for TensorFlow and Keras where batches are small, split or padded."""

import importlib
import importlib.util
import os
import sys

from keras_norms.version import __version__ as __version__


def _is_command():
    """Whether this process is `keras-norms`, whose `--help` should not wait for TensorFlow."""
    return os.path.basename((sys.argv or [""])[0]) in ("keras-norms", "keras-norms.exe")


def _wants_layers():
    """Whether to import the layers now: Keras loads no model with one that it has not met.

    A process that has imported JAX and not TensorFlow wants `keras_norms.jax`, which needs none.
    """
    if sys.modules.get("tensorflow"):
        return True
    return "jax" not in sys.modules and importlib.util.find_spec("tensorflow") is not None


if not _is_command() and _wants_layers():
    from keras_norms.api import *  # noqa: F403


def __getattr__(name):
    """Where the import above was left out, the first use of a public name makes up for it."""
    if name == "jax":
        return importlib.import_module("keras_norms.jax")
    unknown = AttributeError(f"module 'keras_norms' has no attribute {name!r}")
    if name.startswith("_"):
        raise unknown
    try:
        return getattr(importlib.import_module("keras_norms.api"), name)
    except AttributeError:
        raise unknown from None
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        needs = f"keras_norms.{name} needs TensorFlow, which is not installed"
        raise ImportError(
            f"{needs}: `pip install tensorflow`. keras_norms.jax needs none."
        ) from None
