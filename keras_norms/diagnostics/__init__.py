"""Instruments for what the statistics of batch-normalization layers do."""

from keras_norms.diagnostics.discrepancy import Discrepancy as Discrepancy
from keras_norms.diagnostics.discrepancy import (
    training_inference_discrepancy as training_inference_discrepancy,
)
from keras_norms.diagnostics.drift import ChannelDrift as ChannelDrift
from keras_norms.diagnostics.drift import Drift as Drift
from keras_norms.diagnostics.statistics_reference import (
    StatisticsReference as StatisticsReference,
)
