"""Warnings of likely mistakes, each given once by a layer, with the cure."""

import warnings

import numpy as np


def has_single_values(shape, axis, virtual_batch_size):
    """Whether a virtual batch of an input of this shape holds one value a channel.

    False where the shape is not known.
    """
    rows = shape[0]
    if any(n != 1 for a, n in enumerate(shape) if a not in (0, axis)):
        return False
    return virtual_batch_size == 1 or (rows is not None and rows % virtual_batch_size == 1)


def warn_of_single_values(shape, virtual_batch_size, owner):
    """One value is its own mean, and so becomes beta."""
    warnings.warn(
        f"{owner}: a virtual batch of one value per channel is normalized to beta, whatever the "
        "value. Choose a `virtual_batch_size` that leaves no single row. Received: "
        f"virtual_batch_size={virtual_batch_size}, a batch of shape {tuple(shape)}.",
        stacklevel=2,
    )


def warn_of_initial_statistics(mean, stddev, owner):
    """Warns if statistics that are trained still are mean 0 and standard deviation 1."""
    if np.any(mean != 0.0) or not np.allclose(stddev, 1.0):
        return
    warnings.warn(
        f"{owner}: training begins with mean 0 and standard deviation 1, which diverges on inputs "
        "of another scale. Call `keras_norms.initialize_statistics(model, data)` first, or set "
        "`mean_initializer` and `stddev_initializer`.",
        stacklevel=2,
    )
