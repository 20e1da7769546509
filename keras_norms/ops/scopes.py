"""A value that holds within a `with` statement."""

import contextlib
import threading

import tensorflow as tf


class Scope:
    """Holds in this thread and the replicas that it runs, not in what other threads trace.

    A strategy traces its replicas in threads of its own. There the value is that of the scope
    that was opened last, by whichever thread.
    """

    def __init__(self):
        self._of_thread = threading.local()
        self._open = []

    @contextlib.contextmanager
    def holding(self, value):
        previous, self._of_thread.value = self.own_value, value
        self._open.append(value)
        try:
            yield
        finally:
            self._of_thread.value = previous
            self._open.remove(value)

    @property
    def value(self):
        """None outside of all scopes."""
        if self.own_value is None and self._open and tf.distribute.has_strategy():
            return self._open[-1]
        return self.own_value

    @property
    def own_value(self):
        """The value in this thread, replicas apart."""
        return getattr(self._of_thread, "value", None)
