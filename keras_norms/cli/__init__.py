"""The command line: `keras-norms doctor`, `build`, `inspect` and `cost`."""

from keras_norms.cli.main import main

__all__ = ["main"]
