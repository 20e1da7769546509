"""The batches of each epoch, split over the replicas."""

import itertools

import tensorflow as tf

from keras_norms.arguments import require


class Epochs:
    """The epochs of a dataset under a strategy.

    Args:
        dataset: a `tf.data.Dataset` of global batches, a distributed one, or a function of the
            number of the epoch that returns one.
        strategy: whose replicas share each batch.
        steps: batches per epoch, or None for all.
        owner: who is named in errors.
    """

    def __init__(self, dataset, strategy, steps, owner):
        self._owner = owner
        self._dataset = dataset
        self._strategy = strategy
        self._running = None
        self.spec = None  # What a batch is made of, known from the first epoch on.
        self.steps = steps
        is_function = callable(dataset) and not isinstance(dataset, tf.data.Dataset)
        # An epoch that takes a part of the data goes on in the next one.
        self.goes_on = steps is not None and not is_function
        self._is_function = is_function

    def epoch(self, number, step=0, is_first=False):
        """An iterator over the batches of an epoch.

        Args:
            number: the number of the epoch.
            step: how many of its batches to leave out, of one that was interrupted.
            is_first: whether this process has not seen the epochs before.
        """
        if not self.goes_on:
            batches = self.once(number)
        else:
            if self._running is None:
                self._running = self._endless()
            if is_first:
                _skip(self._running, number * self.steps)
            batches = itertools.islice(self._running, self.steps)
        _skip(batches, step)
        return batches

    def once(self, number=0):
        """An iterator over the batches from the first."""
        return itertools.islice(iter(self._distributed(number)), self.steps)

    def _endless(self):
        has_batches = True
        while has_batches:
            has_batches = False
            for batch in self._distributed(0):
                has_batches = True
                yield batch

    def _distributed(self, epoch):
        dataset = self._dataset(epoch) if self._is_function else self._dataset
        is_plain = isinstance(dataset, tf.data.Dataset)
        rule = "the function of the epoch must return a tf.data.Dataset, distributed or not"
        holds = is_plain or isinstance(dataset, tf.distribute.DistributedDataset)
        require(holds, self._owner, rule, dataset=type(dataset).__name__)
        if is_plain:
            dataset = self._strategy.experimental_distribute_dataset(dataset)
        self.spec = dataset.element_spec
        return dataset


def _skip(batches, count):
    next(itertools.islice(batches, count, count), None)
