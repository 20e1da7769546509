"""Tensors in, tensors out: statistics that layers and users share."""

from keras_norms.ops import operation_gradients as operation_gradients
from keras_norms.ops.moments import Moments as Moments
from keras_norms.ops.moments import batch_moments as batch_moments
