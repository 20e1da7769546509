"""Instruments for what the statistics of batch-normalization layers do."""

from keras_norms.diagnostics.discrepancy import Discrepancy as Discrepancy
from keras_norms.diagnostics.discrepancy import (
    training_inference_discrepancy as training_inference_discrepancy,
)
