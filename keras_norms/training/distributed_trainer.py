"""A training loop for replicas on one or several machines, where `model.fit` has none."""

import itertools
import os
import pathlib

import numpy as np
import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.printable import printable
from keras_norms.training import checkpoints
from keras_norms.training import trainer_rules as rules
from keras_norms.training.cluster import worker_of
from keras_norms.training.epochs import Epochs
from keras_norms.training.lost_workers import waiting_for_workers
from keras_norms.training.replica_steps import ReplicaSteps, build_metrics
from keras_norms.training.trainer_rules import OWNER
from keras_norms.training.worker_agreement import check_same, check_same_model


class DistributedTrainer:
    """Trains a compiled Keras model on the replicas of its strategy.

    A step minimizes the mean over all examples of the global batch, plus the mean over replicas of
    what layers add to the loss. So k replicas compute what one would: also where they have unequal
    or empty shares of a batch, and where a machine runs out of data before the others.

    Use it under `MultiWorkerMirroredStrategy` with Keras 3, where `model.fit` does not run; to go
    on after a machine has failed; for gradient accumulation on replicas; and with other strategies
    for the same program on one machine. Not where `model.fit` does what you need: it overrides
    neither `train_step` nor other methods of a model.

    Everything is done by all workers together. One of them, the chief, shows progress and keeps
    the checkpoints.

    Args:
        model: a model that is built and compiled in the scope of its strategy. Its optimizer, loss,
            metrics, weights of losses and `add_loss` are used; the other arguments of `compile`
            are not.
        accumulate_steps: how many batches, one after the other, make one update by their mean
            gradient; at the end of an epoch it may be fewer. Defaults to `1`.
        jit_compile: whether XLA compiles the steps of a replica. With several replicas, TensorFlow
            allows that on GPUs only. Defaults to `False`.
        step_timeout: seconds that a worker waits for the others in a step. They have to cover what
            one does alone, such as the tracing of a large model. Defaults to `600`.
        skip_nonfinite: whether a step whose gradient has NaN or Inf on any replica is made with a
            gradient of 0, so that a bad batch does not end the training. Its loss is not counted;
            metrics of `compile` see it. Give the layers `skip_nonfinite_updates=True` as well.
            Defaults to `False`.

    Raises:
        ValueError: if an argument is invalid, or the model is not built or not compiled.
        RuntimeError: if the model's strategy is a `ParameterServerStrategy`.

    Example:

    >>> strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    >>> with strategy.scope():
    ...     model = keras.Sequential(
    ...         [keras.Input((2,)), keras_norms.SyncBatchNormalization(), keras.layers.Dense(1)]
    ...     )
    ...     model.compile("sgd", "mse")
    >>> data = tf.data.Dataset.from_tensor_slices((tf.ones((8, 2)), tf.ones((8, 1)))).batch(4)
    >>> trainer = keras_norms.training.DistributedTrainer(model)
    >>> history = trainer.fit(data, epochs=2, verbose=0)
    >>> len(history.history["loss"])
    2
    """

    def __init__(
        self,
        model,
        *,
        accumulate_steps=1,
        jit_compile=False,
        skip_nonfinite=False,
        step_timeout=600,
    ):
        rules.check_model(model)
        bools = dict(jit_compile=jit_compile, skip_nonfinite=skip_nonfinite)
        rules.check_options(accumulate_steps, step_timeout, **bools)
        self.model = model
        self.strategy = model.distribute_strategy or tf.distribute.get_strategy()
        self.accumulate_steps = accumulate_steps
        self.step_timeout = step_timeout
        self._advice = ""
        self._options = bools
        with self.strategy.scope():
            self._steps = ReplicaSteps(model, skip_nonfinite, OWNER)
        self._traced: dict = {}
        self._compiled: tuple = ()
        self._follow_compile()

    @property
    def is_chief(self):
        """Whether this process is the worker that shows progress and keeps files."""
        return worker_of(self.strategy) == 0

    def fit(
        self,
        dataset,
        *,
        epochs=1,
        steps_per_epoch=None,
        validation_data=None,
        validation_steps=None,
        callbacks=None,
        verbose=1,
        checkpoint=None,
        checkpoint_every=None,
        log_every=50,
    ):
        """Trains, and returns the `keras.callbacks.History`.

        Args:
            dataset: a `tf.data.Dataset` of global batches `x`, `(x, y)` or `(x, y, sample_weight)`,
                which is split over the replicas; a dataset that `strategy` has distributed; or a
                function that returns one of them for the number of the epoch, from 0, for data that
                is shuffled and has to be the same after a restart.
            epochs: Defaults to `1`.
            steps_per_epoch: batches per epoch, all workers the same. An epoch then goes on where
                the one before has ended, and the data begins again at its end. Defaults to
                `None`, all.
            validation_data: a dataset for `evaluate` after each epoch, logged with `val_` before
                the names. Defaults to `None`.
            validation_steps: batches of it. Defaults to `None`, all.
            callbacks: Keras callbacks, called in every worker. Defaults to none.
            verbose: 0 for nothing, 1 for a progress bar, 2 for a line per epoch, on the chief.
                Defaults to `1`.
            checkpoint: a folder that all workers can read. Model, optimizer, epoch and step are
                saved there, and a call that finds them goes on from there. Defaults to `None`.
            checkpoint_every: updates between two checkpoints within an epoch; there is one at its
                end as well. Defaults to `None`, then only.
            log_every: updates between two readings of loss and metrics for the progress bar and
                the logs of a batch: to read them takes all workers. Defaults to `50`.

        Raises:
            ValueError: if an argument is invalid, or the workers call it with different models or
                arguments.
            WorkerLostError: a RuntimeError, in every worker that is left, if a worker has ended,
                hangs or has made another number of steps.
        """
        sizes = dict(epochs=epochs, log_every=log_every, checkpoint_every=checkpoint_every)
        sizes |= dict(steps_per_epoch=steps_per_epoch, validation_steps=validation_steps)
        data = {"dataset": (dataset, steps_per_epoch)}
        if validation_data is not None:
            data["validation_data"] = validation_data, validation_steps
        rules.check_call(verbose, callbacks, data, **sizes)
        self._follow_compile()
        self._advice = "Start all of them again, and training goes on from the last checkpoint."
        if checkpoint is None:
            self._advice = "With `checkpoint`, training would go on from there after a restart."
        options = {**self._options, "accumulate_steps": self.accumulate_steps}
        arguments = [sizes, options, validation_data is None, checkpoint is None]
        self._wait_for(check_same_model, self.model, arguments, self.strategy, OWNER)
        with checkpoints.opened(checkpoint, self.model, self.strategy, OWNER) as progress:
            return self._fit(
                progress,
                Epochs(dataset, self.strategy, steps_per_epoch, OWNER),
                self._callbacks(callbacks, epochs, steps_per_epoch, verbose),
                epochs=epochs,
                validation=(validation_data, validation_steps),
                checkpoint_every=checkpoint_every,
                log_every=log_every,
            )

    def evaluate(self, dataset, *, steps=None):
        """Returns the loss and the metrics over a dataset by name, all replicas together.

        Args:
            dataset: as in `fit`, but no function.
            steps: batches. Defaults to `None`, all.
        """
        rules.check_dataset(dataset, steps)
        self._follow_compile()
        self._wait_for(self._reset_metrics)
        data = Epochs(dataset, self.strategy, steps, OWNER)
        batches = self._wait_for(data.once)
        count = 0
        while found := self._wait_for(tuple, itertools.islice(batches, 1)):
            self._wait_for(self._step(self._steps.test, data.spec), *found)
            count += 1
        require(count, OWNER, "there must be a batch to evaluate", batches=count)
        return self._wait_for(self._results)

    def save(self, path):
        """Saves the model as a `.keras` file. All workers call it, and the chief writes.

        It takes all of them to read statistics that replicas have of their own.
        """
        path = pathlib.Path(path)
        is_file = path.suffix == ".keras" and not path.is_dir()
        require(is_file, OWNER, "`path` must be that of a .keras file", path=printable(path))
        own = path.with_name(f".{path.stem}.{worker_of(self.strategy)}.keras")
        try:
            self._wait_for(self.model.save, own)
            if self.is_chief:
                os.replace(own, path)
        finally:
            own.unlink(missing_ok=True)
        # The file is there when any of them goes on.
        self._wait_for(check_same, [1], "the model that they saved", self.strategy, OWNER)

    def _fit(self, progress, data, callbacks, *, epochs, validation, checkpoint_every, log_every):
        first_epoch, first_step = position = progress.restore()
        self._wait_for(check_same, position, "the checkpoint they read", self.strategy, OWNER)
        self.model.stop_training = False
        callbacks.on_train_begin()
        logs: dict = {}
        for epoch in range(first_epoch, epochs):
            callbacks.on_epoch_begin(epoch)
            self._wait_for(self._reset_metrics)
            step = first_step if epoch == first_epoch else 0
            batches = self._wait_for(data.epoch, epoch, step, epoch == first_epoch)
            while group := self._wait_for(tuple, itertools.islice(batches, self.accumulate_steps)):
                callbacks.on_train_batch_begin(step)
                self._wait_for(self._step(self._steps.train, data.spec, len(group)), *group)
                step += len(group)
                updates = step // self.accumulate_steps
                if checkpoint_every and updates % checkpoint_every == 0:
                    self._wait_for(progress.save, epoch, step)
                if updates % log_every == 0:
                    logs = self._wait_for(self._results)
                callbacks.on_train_batch_end(step - 1, dict(logs))
                if self.model.stop_training:
                    break
            is_cut = self.model.stop_training
            require(step, OWNER, "an epoch must have a batch", batches=step)
            if not IS_KERAS_3:  # Whose progress bar reads it; it has no setter.
                self.model._train_counter.assign(step)
            logs = self._wait_for(self._results)
            if validation[0] is not None:
                found = self.evaluate(validation[0], steps=validation[1])
                logs |= {f"val_{name}": value for name, value in found.items()}
            # Where a callback stops within an epoch, its weights may be what it stops for.
            if not is_cut:
                self._wait_for(progress.save, epoch + 1, 0)
            callbacks.on_epoch_end(epoch, dict(logs))
            if self.model.stop_training:
                break
        with self.strategy.scope():  # Averages of weights take their place.
            if hasattr(self.model.optimizer, "finalize_variable_values"):
                self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        callbacks.on_train_end(dict(logs))
        return self.model.history

    def _wait_for(self, function, *arguments):
        """Calls what takes all workers."""
        options = dict(timeout=self.step_timeout, owner=OWNER, advice=self._advice)
        with waiting_for_workers(self.strategy, **options):
            return function(*arguments)

    def _step(self, of_replica, spec, batches=1):
        """The step for so many batches of a kind, traced once."""
        key = of_replica, str(spec), batches
        if key not in self._traced:
            with self.strategy.scope():
                build_metrics(self.model, spec)
            if self._options["jit_compile"]:
                of_replica = tf.function(of_replica, jit_compile=True, autograph=False)
            # With the signature, sizes that differ between replicas are not known in the trace.
            self._traced[key] = tf.function(
                lambda *batches: self.strategy.run(of_replica, args=batches),
                input_signature=[spec] * batches,
                autograph=False,
            )
        return self._traced[key]

    def _reset_metrics(self):
        with self.strategy.scope():
            self.model.reset_metrics()
            self._steps.loss.reset_state()

    def _results(self):
        """Loss and metrics as numbers, over all replicas."""
        with self.strategy.scope():
            found = {**self.model.get_metrics_result(), "loss": self._steps.loss.result()}
        values = {name: np.asarray(value) for name, value in found.items()}
        return {name: v if v.ndim else float(v) for name, v in values.items()}

    def _follow_compile(self):
        """Forgets the steps of another optimizer, loss or choice of what is trained."""
        model = self.model
        weights = model.trainable_variables
        loss = getattr(model, "_compile_loss", getattr(model, "compiled_loss", None))
        compiled = (model.optimizer, loss, *map(id, weights))
        if compiled == self._compiled:
            return
        self._compiled, self._traced = compiled, {}
        with self.strategy.scope():
            self._steps.weighs_examples = rules.counts_examples(model)
            if weights and not getattr(model.optimizer, "built", True):
                model.optimizer.build(weights)

    def _callbacks(self, callbacks, epochs, steps, verbose):
        verbose = verbose if self.is_chief else 0
        shown = dict(add_progbar=verbose != 0, verbose=verbose, epochs=epochs, steps=steps)
        return keras.callbacks.CallbackList(callbacks, True, model=self.model, **shown)
