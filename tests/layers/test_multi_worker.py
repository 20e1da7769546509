"""Two processes under MultiWorkerMirroredStrategy compute what one computes on the whole."""

import json
import os
import socket
import subprocess
import sys

import numpy as np

from tests import oracles

WORKER = """
import json, sys
import numpy as np, tensorflow as tf
import keras_norms
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    layer = keras_norms.SyncBatchNormalization(momentum=0.5, dtype="float64")
    layer.build((None, 3))
index = strategy.cluster_resolver.task_id
rows = [slice(0, 5), slice(5, 8)][index]
x, dy = (np.load(path)[rows] for path in sys.argv[1:3])

def replica(x, dy):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    return y, tape.gradient(y, x, output_gradients=dy)

step = tf.function(lambda x, dy: strategy.run(replica, (x, dy)), autograph=False)
y, dx = step(tf.constant(x), tf.constant(dy))
mean = tf.convert_to_tensor(layer.moving_mean)
np.savez(sys.argv[3] + str(index), y=y, dx=dx, mean=mean)
"""


def test_two_workers(rng, tmp_path):
    x, dy = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    for name, value in (("x", x), ("dy", dy)):
        np.save(tmp_path / f"{name}.npy", value)
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    paths = [str(tmp_path / name) for name in ("x.npy", "dy.npy", "out")]
    workers = []
    for index in range(2):
        task = dict(type="worker", index=index)
        config = json.dumps(dict(cluster=dict(worker=addresses), task=task))
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", WORKER, *paths],
                env={**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors[0][-2000:]
    results = [np.load(tmp_path / f"out{index}.npz") for index in range(2)]
    expected_y, (_, mean, _) = oracles.batch_norm(x, 1.0, 0.0, 1e-3)
    expected_dx, *_ = oracles.batch_norm_gradients(x, dy, 1.0, 1e-3)
    for name, expected in (("y", expected_y), ("dx", expected_dx)):
        actual = np.concatenate([result[name] for result in results])
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    for result in results:
        np.testing.assert_allclose(result["mean"], 0.5 * mean[0], rtol=1e-12)
