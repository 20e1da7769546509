"""What the processes of a cluster run: `python -m tests.training.worker PROGRAM FOLDER [...]`."""

import os
import signal
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.local_cluster import cpu_replicas
from keras_norms.keras_api import IS_KERAS_3, keras
from tests.training import networks


def refused(strategy):
    """What is said where worker 1 has its layers in another order. All can go on afterwards."""
    with strategy.scope():
        names = ["b", "a"] if strategy.cluster_resolver.task_id else ["a", "b"]
        norms = [keras_norms.SyncBatchNormalization(name=name) for name in names]
        model = keras.Sequential([keras.Input((6,)), *norms, keras.layers.Dense(2)])
        model.compile("sgd", "mse")
    try:
        keras_norms.training.DistributedTrainer(model).fit(networks.dataset("float32"), verbose=0)
    except ValueError as error:
        return str(error)


def train(folder, strategy):
    """Twenty steps of the same network in both precisions; with Keras 2, by `fit` as well."""
    print(refused(strategy))
    for dtype in ("float32", "float64"):
        keras.backend.set_floatx(dtype)
        loops = ["trainer"] if IS_KERAS_3 else ["trainer", "fit"]
        for loop in loops:
            model = networks.compiled(strategy, dtype)
            data = networks.dataset(dtype)
            fit = model.fit if loop == "fit" else keras_norms.training.DistributedTrainer(model).fit
            history = fit(data, epochs=1, verbose=0).history
            worker = strategy.cluster_resolver.task_id
            logs = {name: np.array(values) for name, values in history.items()}
            weights = networks.weights_of(model)
            np.savez(f"{folder}/{loop}_{dtype}_{worker}.npz", **weights)
            np.savez(f"{folder}/{loop}_{dtype}_{worker}_logs.npz", **logs)


def uneven_shares(strategy, layer):
    """Outputs, gradients and the moving mean where replicas have 3, 2, 3 and 0 rows."""
    x, dy = networks.rows()

    def replica(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x, output_gradients=dy)

    def of_replica(values):
        parts = np.split(values, networks.SPLIT)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    step = tf.function(lambda x, dy: strategy.run(replica, (x, dy)), autograph=False)
    y, dx = step(of_replica(x), of_replica(dy))
    local = strategy.experimental_local_results
    return {
        "y": np.concatenate(local(y)),
        "dx": np.concatenate(local(dx)),
        "mean": tf.convert_to_tensor(layer.moving_mean).numpy(),
    }


def branches(strategy):
    """Steps that three parallel branches make; returns how many."""
    model = networks.compiled(strategy, "float32")

    def replica():
        x = tf.random.normal((4, 6))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        return tf.add_n([tf.reduce_sum(g) for g in gradients])

    step = tf.function(lambda: strategy.run(replica), autograph=False)
    for _ in range(200):
        results = step()
    assert all(np.isfinite(strategy.experimental_local_results(results)))
    return 200


def groups(folder, strategy):
    """Moving means and collectives by `group_size`, then what happens with different layers."""
    worker = strategy.cluster_resolver.task_id
    sizes = {"all": None, "two": 2, "worker": "worker", "four": 4}
    with strategy.scope():
        layers = {
            name: keras_norms.SyncBatchNormalization(
                momentum=0.0, group_size=size, name=name, dtype="float64"
            )
            for name, size in sizes.items()
        }
        for layer in layers.values():
            layer.build((None, 2))

    def replica(layer):
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        x = tf.cast(number, tf.float64) * 10.0 + tf.constant([[1.0, 2.0], [3.0, 4.0]], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) ** 3)
        return tf.convert_to_tensor(layer.moving_mean), tape.gradient(loss, x)

    found = {}
    for name, layer in layers.items():
        step = tf.function(lambda layer=layer: strategy.run(replica, (layer,)), autograph=False)
        means, gradients = step()
        found[name] = np.stack(strategy.experimental_local_results(means))
        found[f"{name}_gradient"] = np.stack(strategy.experimental_local_results(gradients))
        kinds = [op.type for op in step.get_concrete_function().graph.get_operations()]
        found[f"{name}_collectives"] = sum(kind.startswith("CollectiveReduce") for kind in kinds)
    found |= uneven_shares(strategy, layers["all"])
    found["branch_steps"] = branches(strategy)
    keras_norms.set_replica_checks(True)
    order = ["two", "all"] if worker else ["all", "two"]
    with strategy.scope():
        pair = [keras_norms.SyncBatchNormalization(name=name) for name in order]
        for layer in pair:
            layer.build((None, 2))
    step = tf.function(
        lambda: strategy.run(
            lambda: pair[1](pair[0](tf.ones((2, 2)), training=True), training=True)
        ),
        autograph=False,
    )
    try:
        step()
    except tf.errors.OpError as error:
        found["refused"] = f"{type(error).__name__} {error}"
    np.savez(f"{folder}/groups_{worker}.npz", **found)


def resume(folder, strategy, loop, worker_to_end="", last_step="0", way="end"):
    """A training with checkpoints. One worker may end or hang at a step, as if its power failed."""
    worker = strategy.cluster_resolver.task_id
    keras.backend.set_floatx("float64")
    model = networks.compiled(strategy, "float64")

    class Ends(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            self.seen += 1
            if worker_to_end == str(worker) and self.seen == int(last_step):
                os.kill(os.getpid(), signal.SIGSTOP) if way == "hang" else os._exit(9)

    if loop == "fit":
        backup = keras.callbacks.BackupAndRestore(f"{folder}/backup")
        every = networks.same(0).repeat()
        model.fit(every, epochs=3, steps_per_epoch=20, verbose=0, callbacks=[backup, Ends()])
    else:
        keras_norms.training.DistributedTrainer(model).fit(
            networks.shuffled,
            epochs=3,
            callbacks=[Ends()],
            checkpoint=f"{folder}/checkpoints",
            checkpoint_every=7,
            verbose=0,
        )
    np.savez(f"{folder}/resumed_{worker}.npz", **networks.weights_of(model))


def uneven(folder, strategy):
    """Worker 1 stops after an epoch, but does not end, so only the time says so."""
    model = networks.compiled(strategy, "float32")
    data = networks.dataset("float32").repeat()
    is_first = strategy.cluster_resolver.task_id == 0

    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = not is_first

    trainer = keras_norms.training.DistributedTrainer(model, step_timeout=4)
    trainer.fit(data, epochs=3, steps_per_epoch=2, callbacks=[Stops()], verbose=0)
    time.sleep(8)


if __name__ == "__main__":
    program, replicas, folder, *arguments = sys.argv[1:]
    cpu_replicas(int(replicas))
    cluster = keras_norms.training.multi_worker_strategy(start_timeout=120)
    globals()[program](folder, cluster, *arguments)
