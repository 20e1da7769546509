"""The command line: `keras-norms doctor`, `keras-norms build` and `keras-norms inspect`."""

from keras_norms.cli.main import main

__all__ = ["main"]
