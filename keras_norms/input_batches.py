"""The inputs of a model out of all that users call data."""

import itertools
import numbers

import numpy as np
import tensorflow as tf

from keras_norms.keras_api import forget_losses, keras


class InputBatches:
    """The inputs of the model, batch by batch, as often as they are asked for."""

    def __init__(self, data, batch_size, steps, owner):
        self._owner = owner
        for name, value in (("batch_size", batch_size), ("steps", steps)):
            is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if not (is_int and 0 < value < 2**63 or name == "steps" and value is None):
                raise ValueError(
                    f"{owner}: `{name}` must be a positive int. Received: {name}={value!r}."
                )
        if hasattr(data, "__next__"):
            raise ValueError(
                f"{owner}: `data` is read several times, so it must not be an iterator or a "
                f"generator. Received: {type(data).__name__}."
            )
        if isinstance(data, tuple):
            raise ValueError(
                f"{owner}: `data` must be the inputs alone, several of them in a list or a dict. "
                f"Received: a tuple of {len(data)}."
            )
        is_arrays = isinstance(data, (np.ndarray, list, dict)) or tf.is_tensor(data)
        if is_arrays:
            if isinstance(data, list):
                data = tuple(data)
            parts = tf.nest.flatten(data)
            if not all(np.ndim(part) > 0 for part in parts):
                raise ValueError(
                    f"{owner}: `data` must be an array, or a list or dict of arrays. "
                    f"Received: {type(parts[0]).__name__} in a {type(data).__name__}."
                )
            sizes = {len(part) for part in parts}
            if len(sizes) != 1 or 0 in sizes:
                raise ValueError(
                    f"{owner}: `data` must hold at least one instance, and arrays must have the "
                    f"same length. Received: lengths {sorted(sizes)}."
                )
            dataset = tf.data.Dataset.from_tensor_slices({"x": data}).batch(batch_size)
            data = dataset.map(lambda batch: (batch["x"],))
        elif isinstance(data, (str, bytes, set)) or not (
            hasattr(data, "__iter__") or hasattr(data, "__getitem__")
        ):
            raise ValueError(
                f"{owner}: `data` must be arrays or an iterable of batches. "
                f"Received: {type(data).__name__}."
            )
        try:
            size = len(data)
        except TypeError as error:  # A dataset of unknown or endless length.
            if steps is None and "infinite" in str(error):
                raise ValueError(
                    f"{owner}: `data` without an end needs `steps`. Received: steps=None."
                ) from error
            size = None
        if hasattr(data, "__iter__"):
            once = iter(data)
            if once is iter(data):
                raise ValueError(
                    f"{owner}: `data` is read several times, so it must not be an iterator or a "
                    f"generator. Received: {type(data).__name__}, which has only one."
                )
        self._data, self._steps, self._count = data, steps, None
        if steps is not None:
            size = steps if size is None else min(size, steps)
        if size is None:  # Counted, so that data that can be read once only is found out.
            size = sum(1 for _ in self)
        self.size = size

    def build(self, model):
        """Creates the weights of a model where there are none, and returns the first batch."""
        if not isinstance(model, keras.layers.Layer):
            raise ValueError(
                f"{self._owner}: `model` must be a Keras model. Received: {type(model).__name__}."
            )
        first = next(iter(self), None)
        if first is None:
            raise ValueError(f"{self._owner}: `data` must hold at least one batch. Received: none.")
        if not model.built:
            # Traced, not run: a model may change what it remembers even in inference mode.
            trace = tf.function(lambda batch: model(batch, training=False), autograph=False)
            trace.get_concrete_function(tf.nest.map_structure(tf.convert_to_tensor, first))
            forget_losses(model)
        return first

    def __iter__(self):
        """The batches, and an error where there are others than when they were read before."""
        count = 0
        for batch in self._read():
            yield batch
            count += 1
        if self._count not in (None, count):
            raise ValueError(
                f"{self._owner}: `data` is read several times and must have the same batches each "
                f"time. Received: {self._count} batches, then {count}."
            )
        self._count = count

    def _read(self):
        data = source = self._data
        if not hasattr(data, "__iter__"):  # A Keras Sequence: it is indexed.
            source = (data[i] for i in range(len(data)))
        for batch in itertools.islice(source, self._steps):
            yield batch[0] if isinstance(batch, tuple) else batch
