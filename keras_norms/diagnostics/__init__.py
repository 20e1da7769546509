"""Instruments for what the statistics of batch-normalization layers do."""

from keras_norms.diagnostics.discrepancy import (
    Discrepancy,
    training_inference_discrepancy,
)
from keras_norms.diagnostics.drift import ChannelDrift, Drift
from keras_norms.diagnostics.replica_advice import LayerAdvice, ReplicaAdvice, advise
from keras_norms.diagnostics.statistics_reference import (
    StatisticsReference,
)

__all__ = [
    "ChannelDrift",
    "Discrepancy",
    "Drift",
    "LayerAdvice",
    "ReplicaAdvice",
    "StatisticsReference",
    "advise",
    "training_inference_discrepancy",
]
