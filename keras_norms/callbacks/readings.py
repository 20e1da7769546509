"""What callbacks share that take readings every few batches."""

from keras_norms.arguments import is_size, require
from keras_norms.keras_api import keras


class Readings(keras.callbacks.Callback):
    """Counts the batches of all epochs, and keeps a history of readings.

    Args:
        every: a positive int, the number of batches from one reading to the next.

    Attributes:
        steps: the numbers of the batches with a reading, from 1, over all epochs.
        history: what was read, by layer name. Both are reset for another model.
    """

    def __init__(self, every):
        super().__init__()
        require(is_size(every), type(self).__name__, "`every` must be a positive int", every=every)
        self.every = every
        self._layers = {}
        self._reset()

    def _reset(self):
        self.steps, self.history = [], {}
        self._batches = self._before = 0

    def _watch(self, layers):
        """Watches these layers, given by name; the history is reset if they have changed."""
        if self._layers and layers != self._layers:
            self._reset()
        self._layers = layers

    def _count(self, batch):
        """Counts up to batch number `batch` of the epoch; whether a reading is due.

        Keras may run several batches at once.
        """
        last, self._batches = self._batches, self._before + batch + 1
        return self._batches // self.every > last // self.every

    def on_epoch_begin(self, epoch, logs=None):
        self._before = self._batches
