"""Interleaved timing of contenders, and the header that says where it was done.

Contenders take turns within one process, in a new order each round, so that a machine that slows
down for a while slows all of them down. A turn is one call that is not timed and one that is:
everyone finds the caches and the threads as he leaves them himself, not as the one before did.
Medians are reported with the quartiles, and a ratio is the median of the ratios of calls in the
same round.
"""

import os
import pathlib
import platform
import time
from importlib import metadata
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import keras_norms
from keras_norms.diagnostics.memory_pages import memory_pages
from keras_norms.keras_api import keras
from keras_norms.ops.choice import implementation_in_use


class Timing(NamedTuple):
    """Seconds of every round of one contender."""

    seconds: np.ndarray

    @property
    def milliseconds(self):
        """First quartile, median and third quartile."""
        return tuple(float(q) for q in 1e3 * np.quantile(self.seconds, [0.25, 0.5, 0.75]))

    def over(self, other):
        """How many times as long as `other`."""
        return float(np.median(self.seconds / other.seconds))

    def cells(self):
        """Median, and quartiles, for a table."""
        low, median, high = self.milliseconds
        return f"{median:.3g}", f"({low:.3g}-{high:.3g})"


def interleaved(contenders, repeats, warmup=3, lead_in=1):
    """Times functions in turns.

    Args:
        contenders: dict of functions without arguments, each of which returns a small array
            that exists only when all the work is done; reading it waits for the device.
        repeats: timed rounds.
        warmup: rounds before, which trace and compile.
        lead_in: calls before the timed one in every turn. With 0, a call finds the caches as
            another contender left them, mostly without any of its own data.

    Returns:
        A dict of `Timing`, with the keys of `contenders`.
    """
    for _ in range(warmup):
        for contender in contenders.values():
            np.asarray(contender())
    seconds = {name: [] for name in contenders}
    generator = np.random.default_rng(0)
    for _ in range(repeats):
        for name in generator.permutation(list(contenders)):
            contender = contenders[name]
            for _ in range(lead_in):
                np.asarray(contender())
            start = time.perf_counter()
            np.asarray(contender())
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(np.array(values)) for name, values in seconds.items()}


def environment():
    """Machine, versions, implementation in use and memory, as a dict of strings."""
    package = keras.__name__.partition(".")[0]  # keras or tf_keras
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    memory = memory_pages()
    return {
        "machine": ", ".join([_processor(), f"{len(os.sched_getaffinity(0))} cores", *gpus]),
        "python": f"Python {platform.python_version()}",
        "tensorflow": f"TensorFlow {tf.__version__}",
        "keras": f"{package} {metadata.version(package)}",
        "keras_norms": f"keras_norms {keras_norms.__version__}, {implementation_in_use()}",
        "memory": f"allocator {memory.allocator_in_words}, huge pages {memory.huge_pages}",
    }


def headline(environment):
    """The one line above a table."""
    return " · ".join(environment.values())


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
