"""The inputs of a model, from arrays, datasets or iterables."""

import itertools

import numpy as np
import tensorflow as tf

from keras_norms.arguments import is_size
from keras_norms.keras_api import keras
from keras_norms.keras_models import forget_losses


class InputBatches:
    """The inputs of a model, batch by batch; they can be read several times.

    With `once=True` they are read once, and `data` may be an iterator or a generator. `size`, the
    number of batches, then is None where only reading would tell.
    """

    def __init__(self, data, batch_size, steps, owner, once=False):
        self._owner, self._steps, self._count, self._once = owner, steps, None, once
        self._check_sizes(batch_size=batch_size, steps=steps if steps is not None else 1)
        is_arrays = isinstance(data, (np.ndarray, list, dict)) or tf.is_tensor(data)
        self._data = self._dataset_of(data, batch_size) if is_arrays else self._readable(data)
        self.size = self._size()

    def _require(self, holds, rule, received):
        if not holds:
            raise ValueError(f"{self._owner}: {rule}. Received: {received}.")

    def _check_sizes(self, **sizes):
        for name, value in sizes.items():
            is_valid = is_size(value) and value < 2**63
            self._require(is_valid, f"`{name}` must be a positive int", f"{name}={value!r}")

    def _dataset_of(self, data, batch_size):
        if isinstance(data, list):
            data = tuple(data)
        parts = tf.nest.flatten(data)
        self._require(
            all(np.ndim(part) > 0 for part in parts),
            "`data` must be an array, or a list or dict of arrays",
            f"{type(parts[0]).__name__} in a {type(data).__name__}" if parts else "none",
        )
        sizes = {len(part) for part in parts}
        self._require(
            len(sizes) == 1 and 0 not in sizes,
            "`data` must hold at least one instance, and arrays must have the same length",
            f"lengths {sorted(sizes)}",
        )
        dataset = tf.data.Dataset.from_tensor_slices({"x": data}).batch(batch_size)
        return dataset.map(lambda batch: (batch["x"],))

    def _readable(self, data):
        """`data` itself, an iterable of batches that can be read again."""
        kind = type(data).__name__
        again = "`data` is read several times, so it must not be an iterator or a generator"
        self._require(self._once or not hasattr(data, "__next__"), again, kind)
        rule = "`data` must be the inputs alone, several of them in a list or a dict"
        self._require(not isinstance(data, tuple), rule, "a tuple")
        is_iterable = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
        self._require(
            is_iterable and not isinstance(data, (str, bytes, set)),
            "`data` must be arrays or an iterable of batches",
            kind,
        )
        if hasattr(data, "__iter__") and not self._once:
            once = iter(data)
            self._require(once is not iter(data), again, f"{kind}, which can be read only once")
        return data

    def _size(self):
        """The number of batches, counted if the data does not know it."""
        try:
            size = len(self._data)
        except TypeError as error:  # A dataset of unknown or infinite length.
            is_infinite = "infinite" in str(error)
            rule = "infinite `data` needs `steps`"
            self._require(self._steps is not None or not is_infinite, rule, "steps=None")
            size = None
        if self._steps is not None:
            return self._steps if size is None else min(size, self._steps)
        return sum(1 for _ in self) if size is None and not self._once else size

    def build(self, model):
        """Creates the weights of a model where there are none, and returns the first batch."""
        if not isinstance(model, keras.layers.Layer):
            raise ValueError(
                f"{self._owner}: `model` must be a Keras model. Received: {type(model).__name__}."
            )
        first = next(iter(self))
        if not model.built:
            # Traced, not run: a model may change what it remembers even in inference mode.
            trace = tf.function(lambda batch: model(batch, training=False), autograph=False)
            trace.get_concrete_function(tf.nest.map_structure(tf.convert_to_tensor, first))
            forget_losses(model)
        return first

    def __iter__(self):
        """The batches; raises an error if there are none, or others than before."""
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
        self._require(count > 0, "`data` must hold at least one batch", "none")

    def _read(self):
        data = source = self._data
        if not hasattr(data, "__iter__"):  # A Keras Sequence: it is indexed.
            source = (data[i] for i in range(len(data)))
        for batch in itertools.islice(source, self._steps):
            yield batch[0] if isinstance(batch, tuple) else batch
