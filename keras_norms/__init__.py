"""Batch normalization for TensorFlow and Keras where batches are small, split or padded."""

from keras_norms import callbacks as callbacks
from keras_norms import conversion as conversion
from keras_norms import diagnostics as diagnostics
from keras_norms import ops as ops
from keras_norms import schedules as schedules
from keras_norms.initialization import initialize_statistics as initialize_statistics
from keras_norms.layers.batch_normalization import BatchNormalization as BatchNormalization
from keras_norms.layers.batch_renormalization import (
    BatchRenormalization as BatchRenormalization,
)
from keras_norms.layers.batchless_normalization import (
    BatchlessNormalization as BatchlessNormalization,
)
from keras_norms.layers.regularized_batch_normalization import (
    RegularizedBatchNormalization as RegularizedBatchNormalization,
)
from keras_norms.layers.sync_batch_normalization import (
    SyncBatchNormalization as SyncBatchNormalization,
)
from keras_norms.ops.native import NativeStatus as NativeStatus
from keras_norms.ops.native import implementation as implementation
from keras_norms.ops.native import native_status as native_status
from keras_norms.ops.native import set_implementation as set_implementation
from keras_norms.weight_decay import (
    exclude_statistics_from_weight_decay as exclude_statistics_from_weight_decay,
)

__version__ = "0.1.0"
