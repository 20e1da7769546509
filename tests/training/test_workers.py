"""Several workers, each a process: they compute what one does, and none waits for the dead."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from experiments.local_cluster import LocalCluster
from keras_norms.keras_api import IS_KERAS_3, keras
from tests import oracles, strategies
from tests.training import networks

SECONDS = 240


def run(program, folder, *arguments, replicas=1):
    """Exit codes and outputs of two workers that run a program of `worker.py`."""
    options = [program, replicas, folder, *arguments]
    with LocalCluster(["-m", "tests.training.worker", *options], 2, folder) as cluster:
        codes = cluster.wait(SECONDS)
        return codes, [cluster.output(i) for i in range(2)]


def loaded(folder, name):
    return [np.load(pathlib.Path(folder, f"{name}_{i}.npz")) for i in range(2)]


@pytest.fixture
def floatx():
    policy, before = keras.mixed_precision.global_policy(), keras.backend.floatx()
    yield keras.backend.set_floatx
    keras.backend.set_floatx(before)
    keras.mixed_precision.set_global_policy(policy)


def trained(strategy, dtype):
    model = networks.compiled(strategy, dtype)
    trainer = keras_norms.training.DistributedTrainer(model)
    history = trainer.fit(networks.dataset(dtype), verbose=0).history
    return model, history


@pytest.mark.each_keras
def test_two_workers_two_replicas_and_one_train_the_same(tmp_path, floatx):
    codes, outputs = run("train", tmp_path)
    assert codes == [0, 0], outputs[0][-2000:]
    # Before, one of them had its layers in another order.
    refused = r"DistributedTrainer: all workers must agree on the model.*workers_.*_0=\[1\]"
    assert all(re.search(refused, output) for output in outputs)
    for dtype, rtol in (("float32", 1e-4), ("float64", 1e-9)):
        floatx(dtype)
        one, history = trained(tf.distribute.get_strategy(), dtype)
        two, _ = trained(strategies.mirrored(2), dtype)
        expected = networks.weights_of(one)
        networks.assert_equal_weights(networks.weights_of(two), expected, rtol)
        for loop in ["trainer"] if IS_KERAS_3 else ["trainer", "fit"]:
            for weights in loaded(tmp_path, f"{loop}_{dtype}"):
                networks.assert_equal_weights(weights, expected, rtol)
        for index in range(2):
            logs = np.load(tmp_path / f"trainer_{dtype}_{index}_logs.npz")
            for name, values in history.items():
                np.testing.assert_allclose(logs[name], values, 1e-4)


@pytest.mark.each_tensorflow
def test_groups_of_replicas_over_workers(tmp_path):
    codes, outputs = run("groups", tmp_path, replicas=2)
    assert codes == [0, 0], outputs[0][-2000:]
    found = loaded(tmp_path, "groups")
    of_replica = np.array([[2.0, 3.0]]) + 10.0 * np.arange(4)[:, np.newaxis]
    of_worker = of_replica.reshape(2, 2, 2).mean(1)
    for worker, results in enumerate(found):
        for name in ("two", "worker"):
            np.testing.assert_allclose(results[name], [of_worker[worker]] * 2, 1e-12)
            assert results[f"{name}_collectives"] == 0  # Nothing crosses the link.
        for name in ("all", "four"):
            np.testing.assert_allclose(results[name], [of_replica.mean(0)] * 2, 1e-12)
            assert results[f"{name}_collectives"] == 4  # One each way on each replica.
        inputs = [10.0 * r + np.array([[1.0, 2.0], [3.0, 4.0]]) for r in range(4)]
        of_group = np.concatenate(inputs[2 * worker : 2 * worker + 2])
        y, _ = oracles.batch_norm(of_group, 1.0, 0.0, 1e-3)
        expected, *_ = oracles.batch_norm_gradients(of_group, 3 * y**2, 1.0, 1e-3)
        actual = np.concatenate(results["worker_gradient"])
        np.testing.assert_allclose(actual, expected, 1e-9, 1e-12)
        assert results["branch_steps"] == 200
    x, dy = networks.rows()
    expected_y, (_, mean, _) = oracles.batch_norm(x, 1.0, 0.0, 1e-3)
    expected_dx, *_ = oracles.batch_norm_gradients(x, dy, 1.0, 1e-3)
    for name, expected in (("y", expected_y), ("dx", expected_dx)):
        actual = np.concatenate([results[name] for results in found])
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    for results in found:
        np.testing.assert_allclose(results["mean"], mean[0], rtol=1e-12)
    # Where one worker has its layers in another order, both end, and one says why.
    refused = [str(results["refused"]) for results in found]
    named = r"SyncBatchNormalization .'\w+.': replicas must exchange statistics of the same layer"
    assert any(re.search(named, text) for text in refused), refused


@pytest.mark.each_keras
@pytest.mark.parametrize("loop", ["trainer" if IS_KERAS_3 else "fit"])
def test_a_killed_worker_ends_all_and_a_restart_goes_on(tmp_path, loop, floatx):
    codes, outputs = run("resume", tmp_path, loop, 1, 33)
    assert codes[0] not in (0, None) and codes[1] == 9
    if loop == "trainer":
        lost = r"WorkerLostError: DistributedTrainer: a step needs all 2 workers, and worker 1 \("
        assert re.search(lost + r"127\.0\.0\.1:\d+\) ended or cannot be reached", outputs[0])
    else:
        assert "/job:worker/replica:0/task:1" in outputs[0]
    assert not list(tmp_path.glob("resumed_*"))
    codes, outputs = run("resume", tmp_path, loop)
    assert codes == [0, 0], outputs[0][-2000:]
    floatx("float64")
    model = networks.compiled(strategies.mirrored(2), "float64")
    trainer = keras_norms.training.DistributedTrainer(model)
    trainer.fit(networks.shuffled if loop == "trainer" else networks.same, epochs=3, verbose=0)
    for weights in loaded(tmp_path, "resumed"):
        networks.assert_equal_weights(weights, networks.weights_of(model), 1e-9)


@pytest.mark.main_leg
def test_a_worker_that_hangs_ends_the_other(tmp_path):
    options = ["resume", 1, tmp_path, "trainer", 1, 9, "hang"]
    with LocalCluster(["-m", "tests.training.worker", *options], 2, tmp_path) as cluster:
        running, hung = cluster.processes
        code, output = running.wait(SECONDS), cluster.output(0)
        assert hung.poll() is None
    assert code != 0 and "WorkerLostError: DistributedTrainer: a step needs all 2" in output


@pytest.mark.main_leg
def test_different_numbers_of_steps_end_in_time(tmp_path):
    codes, outputs = run("uneven", tmp_path)
    assert codes[0] not in (0, None)
    assert "all can be reached, so one waits elsewhere or makes another number" in outputs[0]
