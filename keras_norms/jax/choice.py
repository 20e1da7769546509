"""Which implementation of the kernels is in use."""

from keras_norms.jax import native, plain
from keras_norms.jax.library import native_status


def kernels_in_use():
    """The module that computes `moments`, `sums` and `blend`, without gradients."""
    return native if native_status().available else plain
