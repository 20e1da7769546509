"""Training: on several machines, with frozen layers, without weight decay of gamma and beta."""

from keras_norms.training.cluster import multi_worker_strategy
from keras_norms.training.distributed_trainer import DistributedTrainer
from keras_norms.training.freezing import freeze_batch_norm, unfreeze_batch_norm
from keras_norms.training.lost_workers import WorkerLostError, waiting_for_workers
from keras_norms.training.rendezvous import NotTogetherError
from keras_norms.training.weight_decay import (
    exclude_from_weight_decay,
    exclude_statistics_from_weight_decay,
)

__all__ = [
    "DistributedTrainer",
    "NotTogetherError",
    "WorkerLostError",
    "exclude_from_weight_decay",
    "exclude_statistics_from_weight_decay",
    "freeze_batch_norm",
    "multi_worker_strategy",
    "unfreeze_batch_norm",
    "waiting_for_workers",
]
