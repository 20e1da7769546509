"""Functions with a gradient of their own, and a way to do without it.

TensorFlow keeps the gradient function of every trace as long as the process lives, and with it the
graph that it was traced in. That is right for training. What traces a model again and again to
look at it, and differentiates nothing, would fill the memory.
"""

import contextlib
import functools
import threading

import tensorflow as tf

_local = threading.local()


@contextlib.contextmanager
def without_gradients():
    """Within, on this thread, functions with a gradient of their own compute values only."""
    before = getattr(_local, "is_off", False)
    _local.is_off = True
    try:
        yield
    finally:
        _local.is_off = before


def custom_gradient(function):
    """As `tf.custom_gradient`, where a gradient may be wanted."""
    differentiable = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*tensors):
        if getattr(_local, "is_off", False):
            return function(*tensors)[0]
        return differentiable(*tensors)

    return call
