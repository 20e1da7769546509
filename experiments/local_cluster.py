"""Several workers on this machine, each a process, for tests, measurements and endurance runs.

A worker of `MultiWorkerMirroredStrategy` has one replica per GPU, or a single one on the CPU. Here
a worker may have several on the CPU, so that "two machines with two replicas each" can be tried
anywhere.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def free_addresses(count):
    """Addresses on the loopback interface that nothing listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


class LocalCluster:
    """Starts a command once per worker, and ends what is left of them.

    Use it as a context manager.

    Args:
        command: what each worker runs, after the Python interpreter.
        workers: how many.
        folder: where worker i writes what it prints, as `i.txt`; longer output blocks no pipe.
        environment: variables to set beside `TF_CONFIG`.
        python: the interpreter. Defaults to this one.
    """

    def __init__(self, command, workers, folder, environment=None, python=sys.executable):
        self.addresses = free_addresses(workers)
        self.files = [pathlib.Path(folder, f"{index}.txt") for index in range(workers)]
        self._command = [python, *map(str, command)]
        self._environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")])),
            **(environment or {}),
        }
        self.processes: list[subprocess.Popen] = []

    def __enter__(self):
        for index in range(len(self.addresses)):
            self.start(index)
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()

    def start(self, index):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": self.addresses}, "task": task})
        with open(self.files[index], "w") as file:
            process = subprocess.Popen(
                self._command,
                env={**self._environment, "TF_CONFIG": config},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)

    def wait(self, seconds):
        """Returns the exit codes once all have ended.

        Raises:
            subprocess.TimeoutExpired: after so many seconds for each.
        """
        return [process.wait(seconds) for process in self.processes]

    def output(self, index):
        """What a worker has printed so far."""
        return self.files[index].read_text(errors="replace")


def cpu_replicas(count):
    """Gives this worker so many replicas on the CPU; call it before anything uses TensorFlow.

    TensorFlow has no public way to do so, since it is of no use but to try things out.
    """
    import tensorflow as tf
    from tensorflow.python.distribute import collective_all_reduce_strategy

    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(cpu, logical)

    def devices(self, cluster_resolver, worker_device):
        return tuple(f"{worker_device}/device:CPU:{i}" for i in range(count)), "CPU"

    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    extended._initialize_local_devices = devices
