"""The public names, all of which need TensorFlow."""

from keras_norms import (
    callbacks,
    conversion,
    diagnostics,
    number_formats,
    ops,
    schedules,
    training,
)
from keras_norms.layers.adaptive_batch_normalization import AdaptiveBatchNormalization
from keras_norms.layers.adaptive_batch_standardization import AdaptiveBatchStandardization
from keras_norms.layers.batch_normalization import BatchNormalization
from keras_norms.layers.batch_renormalization import BatchRenormalization
from keras_norms.layers.batchless_normalization import BatchlessNormalization
from keras_norms.layers.light_normalization import LightNormalization
from keras_norms.layers.range_batch_normalization import RangeBatchNormalization
from keras_norms.layers.regularized_batch_normalization import RegularizedBatchNormalization
from keras_norms.layers.sync_batch_normalization import SyncBatchNormalization
from keras_norms.layers.sync_branches import SyncBranches
from keras_norms.models.folding import fold_batch_norm
from keras_norms.models.fusing import fuse_activations, unfuse_activations
from keras_norms.models.initialization import initialize_statistics
from keras_norms.models.light_norm_cost import light_norm_cost
from keras_norms.models.model_conversion import convert_batch_norm
from keras_norms.models.population_statistics import recompute_statistics
from keras_norms.ops.choice import NativeStatus, implementation, native_status, set_implementation
from keras_norms.ops.exporting import exporting
from keras_norms.statistics.agreement import set_replica_checks
from keras_norms.training.freezing import freeze_batch_norm, unfreeze_batch_norm
from keras_norms.training.weight_decay import (
    exclude_from_weight_decay,
    exclude_statistics_from_weight_decay,
)

__all__ = [
    "AdaptiveBatchNormalization",
    "AdaptiveBatchStandardization",
    "BatchNormalization",
    "BatchRenormalization",
    "BatchlessNormalization",
    "LightNormalization",
    "NativeStatus",
    "RangeBatchNormalization",
    "RegularizedBatchNormalization",
    "SyncBatchNormalization",
    "SyncBranches",
    "callbacks",
    "conversion",
    "convert_batch_norm",
    "diagnostics",
    "exclude_from_weight_decay",
    "exclude_statistics_from_weight_decay",
    "exporting",
    "freeze_batch_norm",
    "fold_batch_norm",
    "fuse_activations",
    "implementation",
    "initialize_statistics",
    "light_norm_cost",
    "native_status",
    "number_formats",
    "ops",
    "recompute_statistics",
    "schedules",
    "set_implementation",
    "set_replica_checks",
    "training",
    "unfreeze_batch_norm",
    "unfuse_activations",
]
