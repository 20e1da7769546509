"""Keras callbacks that watch what normalization does during training."""

from keras_norms.callbacks.second_moment_monitor import SecondMomentMonitor as SecondMomentMonitor
from keras_norms.callbacks.statistics_drift import StatisticsDrift as StatisticsDrift
from keras_norms.callbacks.training_inference_discrepancy import (
    TrainingInferenceDiscrepancy as TrainingInferenceDiscrepancy,
)
