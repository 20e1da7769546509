"""One worker of the endurance run: a training that goes on from its checkpoint.

python -m experiments.soak.worker FOLDER REPLICAS        with TF_CONFIG
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.local_cluster import cpu_replicas

keras = tf.keras
EPOCHS, BATCH, FEATURES = 3, 12, 6
# Of an epoch: full batches, then one that leaves two of four replicas without an example.
STEPS, LAST = 20, 2
# In each epoch, the batch and the example of it that is NaN.
POISONED = (7, 3)
PAUSE = 0.05


def epoch(number):
    """The batches of an epoch, which depend on nothing but its number."""
    rng = np.random.default_rng(number)
    x = rng.normal(2.0, 3.0, (STEPS * BATCH + LAST, FEATURES))
    y = np.tanh(x[:, :2]) + 0.1 * rng.normal(size=(len(x), 2))
    x[POISONED[0] * BATCH + POISONED[1]] = np.nan
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


def compiled(strategy):
    """Parallel branches of every kind of synchronized layer that has moving statistics."""
    keras.utils.set_random_seed(1)
    options = dict(synchronized=True, momentum=0.9, skip_nonfinite_updates=True)
    kinds = (
        keras_norms.BatchNormalization,
        keras_norms.BatchRenormalization,
        keras_norms.RegularizedBatchNormalization,
    )
    with strategy.scope():
        inputs = keras.Input((FEATURES,))
        branches = [kind(**options)(keras.layers.Dense(8)(inputs)) for kind in kinds]
        x = keras.layers.Activation("tanh")(keras.layers.Concatenate()(branches))
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        model.compile(keras.optimizers.SGD(0.02), "mse")
    return model


class Pauses(keras.callbacks.Callback):
    """Makes the training last, and says where it is."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(PAUSE)
        print("batch", batch, flush=True)


def main(folder, replicas):
    cpu_replicas(int(replicas))
    strategy = keras_norms.training.multi_worker_strategy(start_timeout=120)
    keras.backend.set_floatx("float64")
    model = compiled(strategy)
    keras_norms.training.DistributedTrainer(model, skip_nonfinite=True, step_timeout=60).fit(
        epoch,
        epochs=EPOCHS,
        callbacks=[Pauses()],
        checkpoint=os.path.join(folder, "checkpoints"),
        checkpoint_every=5,
        verbose=0,
    )
    weights = {str(i): np.asarray(w) for i, w in enumerate(model.get_weights())}
    np.savez(os.path.join(folder, f"weights_{strategy.cluster_resolver.task_id}.npz"), **weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
