"""Where a training is: model, optimizer, epoch and step, in a folder that all workers read."""

import contextlib
import glob
import os
import shutil
import tempfile

import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.keras_api import IS_KERAS_3
from keras_norms.printable import printable
from keras_norms.training.cluster import worker_of
from keras_norms.training.worker_agreement import number_of


@contextlib.contextmanager
def opened(folder, model, strategy, owner):
    """The `Progress` of a training in a folder; or, without a folder, one that saves nothing.

    Raises:
        ValueError: if the folder cannot be used.
    """
    with contextlib.ExitStack() as stack:
        own = folder
        if folder is not None:
            rule = "`checkpoint` must be a folder that can be written"
            is_path = isinstance(folder, (str, os.PathLike)) and os.fspath(folder)
            require(is_path, owner, rule, checkpoint=folder)
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"{owner}: {rule}. Received: {printable(folder)}, {error.strerror}."
                ) from error
            if worker_of(strategy) > 0:
                # Saving takes all workers, since statistics of replicas are averaged. One keeps it.
                own = tempfile.mkdtemp(prefix="keras_norms_worker_")
                stack.callback(shutil.rmtree, own, ignore_errors=True)
        with strategy.scope():
            yield Progress(folder, own, model, owner)


class Progress:
    """Saves and restores a training.

    Args:
        folder: the folder to restore from, or None.
        own: the folder where this worker writes, or None.
        model: the compiled model.
        owner: who is named in errors.
    """

    def __init__(self, folder, own, model, owner):
        self._folder = folder and os.fspath(folder)
        self._owner = owner
        # Epoch, step, and a number for the model and its optimizer.
        self._position = tf.Variable([0, 0, 0], trainable=False, dtype=tf.int64, name="position")
        self._number = number_of(model, type(model.optimizer).__name__)
        self._checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            position=self._position,
            seeds=_seeds_of(model),
        )
        self._manager = own and tf.train.CheckpointManager(
            self._checkpoint, os.fspath(own), max_to_keep=2
        )

    def restore(self):
        """Returns epoch and step to go on with, both 0 where nothing has been saved.

        Raises:
            ValueError: if what has been saved cannot be read, or is of another model. The model
                is left as it is then.
        """
        path = self._folder and tf.train.latest_checkpoint(self._folder)
        if not path:
            left = glob.glob(os.path.join(glob.escape(self._folder or "/"), "ckpt-*.index"))
            rule = "the file `checkpoint` of a folder with checkpoints must name the latest"
            require(not (self._folder and left), self._owner, rule, checkpoint=self._folder)
            return 0, 0
        try:
            reader = tf.train.load_checkpoint(path)
            epoch, step, number = reader.get_tensor("position/.ATTRIBUTES/VARIABLE_VALUE")
            is_same = number == self._number
        except (tf.errors.OpError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"{self._owner}: a checkpoint must be one that `fit` has written. Received: "
                f"{printable(path)}, which cannot be read: {printable(error)[:200]}"
            ) from error
        rule = "the checkpoint must be of the same model and optimizer"
        require(is_same, self._owner, rule, checkpoint=path)
        self._checkpoint.restore(path).expect_partial()
        return int(epoch), int(step)

    def save(self, epoch, step):
        """Saves that training goes on with this step of this epoch."""
        if self._manager:
            self._position.assign([epoch, step, self._number])
            self._manager.save()


def _seeds_of(model):
    """The states of random numbers, as of Dropout, which Keras 3 leaves out of checkpoints."""
    if not IS_KERAS_3:
        return []
    known = {id(w) for w in (*model.weights, *model.metrics_variables)}
    return [v.value for v in model.variables if id(v) not in known]
