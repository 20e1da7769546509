"""`keras-norms bench`: how fast the layers are on this machine, next to stock Keras."""

import json
import time

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from keras_norms.cli.commands import guarded
from keras_norms.keras_api import keras
from keras_norms.layers.batch_normalization import BatchNormalization
from keras_norms.ops.choice import native_status

SHAPES: tuple[tuple[int, ...], ...] = (
    (32, 56, 56, 64),
    (32, 28, 28, 128),
    (32, 14, 14, 256),
    (4096, 768),
    (32, 64),
)
_WARM_UP = 3


def run(options):
    """Returns 0, or 2 on an error."""
    return guarded("bench", _bench, options)


def _bench(options):
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1. Received: {options.rounds}.")
    console = Console(stderr=True)
    rows = []
    with Progress(console=console, transient=True, disable=options.json) as progress:
        task = progress.add_task("timing", total=len(SHAPES))
        for shape in SHAPES:
            rows.append(_timed(shape, options.rounds))
            progress.advance(task)
    native = native_status().reason
    if options.json:
        print(json.dumps({"kernels": native, "steps": rows}, indent=2))
        return
    table = Table(title="Forward and backward pass of a training step", title_justify="left")
    for name in ("shape, float32", "ours, ms", "stock Keras, ms", "stock takes"):
        table.add_column(name, justify="left" if "shape" in name else "right")
    for row in rows:
        sizes = "×".join(map(str, row["shape"]))
        cells = f"{row['ours_ms']:.3g}", f"{row['stock_ms']:.3g}", f"{row['ratio']:.2f} times"
        table.add_row(sizes, *cells)
    Console().print(table)
    print(f"Medians of {options.rounds} calls in turns. {native}")


def _timed(shape, rounds):
    """Medians of both in turns, so that a machine that slows down slows down both."""
    steps = [_step(kind(), shape) for kind in (BatchNormalization, keras.layers.BatchNormalization)]
    seconds = np.array([[_seconds(step) for step in steps] for _ in range(_WARM_UP + rounds)])
    ours, stock = seconds[_WARM_UP:].T
    return {
        "shape": shape,
        "ours_ms": 1e3 * float(np.median(ours)),
        "stock_ms": 1e3 * float(np.median(stock)),
        "ratio": float(np.median(stock / ours)),
    }


def _step(layer, shape):
    layer.build(shape)
    x, dy = (tf.random.stateless_normal(shape, (0, seed)) for seed in range(2))

    @tf.function(autograph=False)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        gradients = tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)
        return [tf.reshape(gradient, [-1])[0] for gradient in gradients]

    return lambda: step(x, dy)


def _seconds(step):
    for value in step():  # A call that is not timed leaves the caches as this layer leaves them.
        value.numpy()
    start = time.perf_counter()
    for value in step():
        value.numpy()
    return time.perf_counter() - start
