"""Where a training is: model, optimizer, epoch and step, in a folder that all workers read."""

import contextlib
import shutil
import tempfile

import tensorflow as tf

from keras_norms.training.cluster import worker_of


@contextlib.contextmanager
def opened(folder, model, strategy):
    """The `Progress` of a training in a folder; or, without a folder, one that saves nothing."""
    with contextlib.ExitStack() as stack:
        own = folder
        if folder is not None and worker_of(strategy) > 0:
            # Saving takes all workers, since statistics of replicas are averaged. One keeps it.
            own = tempfile.mkdtemp(prefix="keras_norms_worker_")
            stack.callback(shutil.rmtree, own, ignore_errors=True)
        with strategy.scope():
            yield Progress(folder, own, model)


class Progress:
    """Saves and restores a training.

    Args:
        folder: the folder to restore from, or None.
        own: the folder where this worker writes, or None.
        model: the compiled model.
    """

    def __init__(self, folder, own, model):
        self._folder = folder
        self._position = tf.Variable([0, 0], trainable=False, dtype=tf.int64, name="position")
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=model.optimizer, position=self._position
        )
        self._manager = own and tf.train.CheckpointManager(self._checkpoint, own, max_to_keep=2)

    def restore(self):
        """Returns epoch and step to go on with, both 0 where nothing has been saved."""
        latest = self._folder and tf.train.latest_checkpoint(self._folder)
        if latest:
            status = self._checkpoint.restore(latest)
            status.assert_existing_objects_matched().expect_partial()
        epoch, step = tf.convert_to_tensor(self._position).numpy()
        return int(epoch), int(step)

    def save(self, epoch, step):
        """Saves that training goes on with this step of this epoch."""
        if self._manager:
            self._position.assign([epoch, step])
            self._manager.save()
