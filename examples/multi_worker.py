"""Training on several machines, which goes on after one of them has failed.

Start it on every machine, with one folder for checkpoints and a `TF_CONFIG` that says which one
it is; or let it start several workers here. Kill one: all others end, and name it. Start all
again: they go on from the last checkpoint.

    TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker",
        "index": 0}}' python examples/multi_worker.py --checkpoint /shared/digits
    python examples/multi_worker.py --local-workers 2      half a minute
"""

import argparse
import json
import os
import socket
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--local-workers", type=int, metavar="N", help="start N workers here")
parser.add_argument("--checkpoint", help="a folder that all workers can read")
parser.add_argument("--epochs", type=int, default=8, help="default %(default)s")
options = parser.parse_args()


def start(count):
    """Starts the workers with addresses of this machine, and ends as they do."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    command = [sys.executable, __file__, "--epochs", str(options.epochs)]
    command += ["--checkpoint", options.checkpoint] if options.checkpoint else []
    workers = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        workers.append(subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config}))
    sys.exit(max(abs(worker.wait()) for worker in workers))


if options.local_workers is not None:
    if not 1 <= options.local_workers <= 16:
        parser.exit(2, "multi_worker: --local-workers must be from 1 to 16.\n")
    start(options.local_workers)

import tensorflow as tf
from sklearn.datasets import load_digits

from keras_norms import SyncBatchNormalization
from keras_norms.training import DistributedTrainer, NotTogetherError, multi_worker_strategy

try:
    strategy = multi_worker_strategy()
except (ValueError, NotTogetherError) as error:
    parser.exit(2, f"{error} Or start with --local-workers 2.\n")
keras, layers = tf.keras, tf.keras.layers
x, y = load_digits(return_X_y=True)
images = tf.data.Dataset.from_tensor_slices((x.reshape(-1, 8, 8, 1).astype("float32") / 16, y))
training, test = images.take(1280).batch(32), images.skip(1280).batch(64)
keras.utils.set_random_seed(7)
with strategy.scope():
    model = keras.Sequential([keras.Input((8, 8, 1))])
    for channels in (32, 64):
        model.add(layers.Conv2D(channels, 3, padding="same", use_bias=False))
        model.add(SyncBatchNormalization(momentum=0.95))
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
trainer = DistributedTrainer(model)
trainer.fit(training, epochs=options.epochs, checkpoint=options.checkpoint, verbose=2)
found = trainer.evaluate(test)
if trainer.is_chief:
    replicas = strategy.num_replicas_in_sync
    print(f"Accuracy on {replicas} workers: {100 * found['accuracy']:.1f} %")
