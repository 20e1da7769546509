"""Every layer of the package in its variants: one row, and the conformance tests cover it."""

import dataclasses
from typing import Any

import keras_norms


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer, the options that make the variant, and the shape of a batch it takes.

    `state` are the weights that are not trained, `trained` those that are beside gamma and beta.
    """

    layer: type
    options: dict[str, Any]
    shape: tuple[int, ...]
    state: tuple[str, ...] = ("moving_mean", "moving_variance")
    trained: tuple[str, ...] = ()

    def make(self, **more):
        common = {} if self.trained else {"momentum": 0.8}
        return self.layer(**{**common, **self.options, **more})

    def on_one_device(self, replicas):
        """The row that does on one device what this does on replicas with equal parts of a batch.

        Each of them has its own chunks.
        """
        options = dict(self.options)
        if "num_chunks" in options:
            options["num_chunks"] *= replicas
        return dataclasses.replace(self, options=options)

    @property
    def counts_all_replicas(self):
        """Whether replicas do what one does: with all of the batch; see `on_one_device`."""
        synchronized = getattr(self.make(), "synchronized", False)
        return bool(self.trained) or (synchronized and not self.options.get("group_size"))


ADAPTIVE = keras_norms.AdaptiveBatchNormalization
GATE_STATE = ("moving_sample_mean", "moving_open_share")
# On the batch of the conformance tests the gate opens in some steps and not in others.
WIDE = dict(band=3.0, threshold=0.2)
RENORM = keras_norms.BatchRenormalization
RENORM_STATE = ("moving_mean", "moving_stddev", "step")
BATCHLESS = keras_norms.BatchlessNormalization
REGULARIZED = keras_norms.RegularizedBatchNormalization
STRONG = dict(mean_weight=0.1, variance_weight=0.2)
RAMP = keras_norms.schedules.LinearRamp(1, 9, 1.0, 3.0)
RANGE = keras_norms.RangeBatchNormalization
LIGHT = keras_norms.LightNormalization
RANGE_STATE = ("moving_mean", "moving_scale")
WINDOW = "accumulated_%s"
SIZED = ("count", "mean", "m2", "squared_weights")
RANGE_PARTS = ("count", "mean", "deviations", "chunks")
TWO_CHUNKS = dict(num_chunks=2)

ROWS = {
    "adaptive": Row(ADAPTIVE, WIDE, (8, 4, 3), ("moving_mean", "moving_variance", *GATE_STATE)),
    "adaptive_average": Row(
        ADAPTIVE,
        dict(momentum=None, open_share_metric=True, **WIDE),
        (8, 4, 3),
        ("moving_mean", "moving_variance", "step", *GATE_STATE),
    ),
    "adaptive_synchronized": Row(
        ADAPTIVE,
        dict(synchronized=True, band=3.0, threshold=0.4),
        (8, 5),
        ("moving_mean", "moving_variance", *GATE_STATE),
    ),
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
    "batch_accumulated": Row(
        keras_norms.BatchNormalization,
        dict(accumulate_steps=2, unbiased_moving_variance=True),
        (8, 4, 3),
        ("moving_mean", "moving_variance", *(WINDOW % name for name in SIZED), WINDOW % "calls"),
    ),
    "batch_average": Row(
        keras_norms.BatchNormalization,
        dict(momentum=None),
        (8, 5),
        ("moving_mean", "moving_variance", "step"),
    ),
    "batch_synchronized": Row(keras_norms.BatchNormalization, dict(synchronized=True), (8, 5)),
    "batchless": Row(BATCHLESS, {}, (8, 4, 3), (), ("mean", "log_stddev")),
    "batchless_first": Row(
        BATCHLESS,
        dict(axis=1, parametrization="abs", monitor=0.9, learning_rate_multiplier=2.0),
        (8, 4, 3, 2),
        ("second_moment",),
        ("mean", "stddev"),
    ),
    "batchless_inverse": Row(
        BATCHLESS,
        dict(parametrization="inv", nll_weight=0.5),
        (8, 5),
        (),
        ("mean", "inverse_stddev"),
    ),
    "light": Row(LIGHT, dict(block_size=2, **TWO_CHUNKS), (8, 4, 3), RANGE_STATE),
    "light_first": Row(
        LIGHT,
        dict(
            axis=1,
            block_size=2,
            number_format=keras_norms.number_formats.FloatFormat(6, 5),
            gradient_format="fp10_163",
            alignment="largest",
            rounding="truncate",
            range_constant="calibrated",
            **TWO_CHUNKS,
        ),
        (8, 4, 3, 2),
        RANGE_STATE,
    ),
    "light_moments": Row(
        LIGHT, dict(range_constant=None, block_size=2, mantissa_bits=7), (8, 4, 3)
    ),
    "light_synchronized": Row(
        LIGHT, dict(synchronized=True, block_size=4, num_chunks=1), (8, 4, 5), RANGE_STATE
    ),
    "range": Row(RANGE, TWO_CHUNKS, (8, 4, 3), RANGE_STATE),
    "range_axes": Row(
        RANGE, dict(axis=[1, 3], range_constant="banner", **TWO_CHUNKS), (8, 4, 3, 2), RANGE_STATE
    ),
    "range_first": Row(
        RANGE, dict(axis=1, num_chunks=5, max_update=5.0), (8, 4, 3, 2), RANGE_STATE
    ),
    "range_accumulated": Row(
        RANGE,
        dict(accumulate_steps=2, momentum=None, **TWO_CHUNKS),
        (8, 5),
        (*RANGE_STATE, "step", *(WINDOW % name for name in RANGE_PARTS), WINDOW % "calls"),
    ),
    "range_synchronized": Row(
        RANGE, dict(synchronized=True, momentum=None, num_chunks=1), (8, 5), (*RANGE_STATE, "step")
    ),
    "range_virtual": Row(RANGE, dict(virtual_batch_size=3, **TWO_CHUNKS), (8, 4, 5), RANGE_STATE),
    "regularized": Row(REGULARIZED, STRONG, (8, 4, 3)),
    "regularized_scheduled": Row(
        REGULARIZED,
        dict(
            mean_weight=keras_norms.schedules.LinearRamp(0, 4, 0.0, 0.1),
            variance_weight=0.2,
            penalty="stddev_l2",
            penalty_uses="previous",
        ),
        (8, 5),
        ("moving_mean", "moving_variance", "step"),
    ),
    "regularized_synchronized": Row(REGULARIZED, dict(synchronized=True, **STRONG), (8, 5)),
    "regularized_virtual": Row(REGULARIZED, dict(virtual_batch_size=3, **STRONG), (8, 5)),
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
