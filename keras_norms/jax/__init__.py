"""Batch normalization in JAX: exact at any offset, with masks, and on several devices as on one."""

from keras_norms.jax.installed import check_jax

check_jax()

from keras_norms.jax.batch_normalization import batch_norm  # noqa: E402
from keras_norms.jax.library import NativeStatus, native_status  # noqa: E402
from keras_norms.jax.moments import Moments, batch_moments  # noqa: E402
from keras_norms.jax.moving_statistics import (  # noqa: E402
    MovingStatistics,
    moving_statistics,
    update_moving_statistics,
)

__all__ = [
    "Moments",
    "MovingStatistics",
    "NativeStatus",
    "batch_moments",
    "batch_norm",
    "moving_statistics",
    "native_status",
    "update_moving_statistics",
]
