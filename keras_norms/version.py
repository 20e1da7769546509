"""The version of the package, where setup.cfg and the command line read it without TensorFlow."""

__version__ = "0.1.0"
