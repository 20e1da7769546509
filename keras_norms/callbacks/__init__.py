"""Keras callbacks that watch what normalization does during training."""

from keras_norms.callbacks.second_moment_monitor import SecondMomentMonitor
from keras_norms.callbacks.statistics_drift import StatisticsDrift
from keras_norms.callbacks.training_inference_discrepancy import (
    TrainingInferenceDiscrepancy,
)

__all__ = [
    "SecondMomentMonitor",
    "StatisticsDrift",
    "TrainingInferenceDiscrepancy",
]
