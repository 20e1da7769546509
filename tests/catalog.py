"""Every layer of the package in its variants: one row, and the conformance tests cover it."""

import dataclasses
from typing import Any

import keras_norms


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer, the options that make the variant, and the shape of a batch it takes."""

    layer: type
    options: dict[str, Any]
    shape: tuple[int, ...]
    state: tuple[str, ...] = ("moving_mean", "moving_variance")

    def make(self, **more):
        return self.layer(**{"momentum": 0.8, **self.options, **more})


RENORM = keras_norms.BatchRenormalization
RENORM_STATE = ("moving_mean", "moving_stddev", "step")
RAMP = keras_norms.schedules.LinearRamp(1, 9, 1.0, 3.0)

ROWS = {
    "batch": Row(keras_norms.BatchNormalization, {}, (8, 4, 3)),
    "batch_first": Row(keras_norms.BatchNormalization, dict(axis=1), (8, 4, 3, 2)),
    "batch_axes": Row(keras_norms.BatchNormalization, dict(axis=[1, 3]), (8, 4, 3, 2)),
    "batch_virtual": Row(keras_norms.BatchNormalization, dict(virtual_batch_size=3), (8, 5)),
    "batch_guarded": Row(
        keras_norms.BatchNormalization,
        dict(skip_nonfinite_updates=True, max_update=5.0, unbiased_moving_variance=True),
        (8, 5),
    ),
    "batch_bare": Row(keras_norms.BatchNormalization, dict(center=False, scale=False), (8, 5)),
    "batch_synchronized": Row(keras_norms.BatchNormalization, dict(synchronized=True), (8, 5)),
    "renorm": Row(RENORM, dict(r_max=2.0, d_max=1.5), (8, 4, 3), RENORM_STATE),
    "renorm_scheduled": Row(RENORM, dict(r_max=RAMP, clipping_metrics=True), (8, 5), RENORM_STATE),
    "renorm_virtual": Row(
        RENORM, dict(r_max=2.0, d_max=1.5, virtual_batch_size=3), (8, 5), RENORM_STATE
    ),
    "renorm_synchronized": Row(
        RENORM, dict(r_max=2.0, d_max=1.5, synchronized=True), (8, 5), RENORM_STATE
    ),
    "sync": Row(keras_norms.SyncBatchNormalization, {}, (8, 4, 4, 3)),
    "sync_groups": Row(keras_norms.SyncBatchNormalization, dict(group_size=1), (8, 5)),
}
