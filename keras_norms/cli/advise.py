"""`keras-norms advise`: which batch normalization a model wants on several replicas."""

import contextlib
import json
import sys

import tensorflow as tf
from rich.console import Console

from keras_norms.cli.commands import guarded
from keras_norms.cli.model_files import load_model, read_npz
from keras_norms.diagnostics.replica_advice import advise


def run(options):
    """Returns 0, or 2 on an error."""
    return guarded("advise", _advise, options)


def _advise(options):
    if not 1 <= options.replicas <= 1024:
        raise ValueError(f"--replicas must be from 1 to 1024. Received: {options.replicas}.")
    _make_devices(options.replicas)
    model = load_model(options.model, module=options.module)
    data = read_npz(options.data, model)
    with contextlib.redirect_stdout(sys.stderr):  # A progress bar.
        advice = advise(
            model,
            data,
            options.replicas,
            options.batch,
            limit=options.limit,
            verbose=0 if options.json else 1,
        )
    if options.json:
        print(json.dumps(advice.to_json(), indent=2))
    else:
        console = Console()
        print(advice.table(console.width if console.is_terminal else 200))


def _make_devices(replicas):
    """Lets one CPU stand for several replicas where there are not enough GPUs."""
    if len(tf.config.list_physical_devices("GPU")) < replicas:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, devices)
