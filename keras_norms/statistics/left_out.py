"""Says once for each layer that a batch was left out of its moving statistics."""

import warnings

import numpy as np
import tensorflow as tf

from keras_norms.ops.host_calls import may_call_python

_named: set[str] = set()


def name_once(is_left_out, owner):
    """Adds a warning to the graph that is being traced, where it may have one.

    Args:
        is_left_out: a bool scalar tensor.
        owner: the layer, by its class and name.
    """
    if not may_call_python():
        return

    def warn(happened):
        if happened and owner not in _named:
            _named.add(owner)
            warnings.warn(
                f"{owner}: a batch whose mean or variance is not finite was left out of the moving "
                "statistics. Further ones of this layer are left out without a warning.",
                stacklevel=2,
            )
        return np.False_

    tf.numpy_function(warn, [is_left_out], tf.bool)
