"""What synchronization costs, by replicas, layers and channels: measured here, and a fit to it.

Replicas are threads of one process (MirroredStrategy) or processes that exchange over TCP on the
loopback interface (MultiWorkerMirroredStrategy). A step runs a chain of layers on small activations
forward and backward; with and without synchronization take turns, and their difference is the cost.
What several workers cost is fitted by

    seconds = collectives * (a + b * 2 (replicas - 1)) + bytes / c

where a step of a ring all-reduce takes b, and each replica sends so many bytes. Where all share
the cores of one machine a and b are those of that machine; scaling_model.py computes other links.

    python benchmarks/scaling.py [--repeats 40] [--json FILE]     about 15 minutes
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
import tensorflow as tf
from graphs import is_collective
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms
from experiments.local_cluster import LocalCluster

ROWS = 8
LAYERS, CHANNELS = (1, 16, 64), (16, 256, 4096)
PLACES = [("replicas", 2), ("replicas", 4), ("workers", 2), ("workers", 3), ("workers", 4)]
# Stock Keras, with three collectives forward and two backward, at one size.
STOCK_SIZE = (16, 256)
LOOPBACK = pathlib.Path("/proc/net/dev")


def main():
    options = arguments()
    if options.worker:
        return work(options)
    console = Console()
    console.width = max(console.width, 140)
    blocks = [measured(kind, count, options) for kind, count in PLACES[: 1 if options.smoke else 5]]
    console.print(headline(blocks[0]["environment"]))
    console.print(table(blocks))
    found = fit(blocks)
    if found:
        console.print(found["text"])
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"blocks": blocks, "fit": found}))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="small, to see that it runs")
    parser.add_argument("--worker", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--replicas", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.repeats = 3
    return options


def measured(kind, count, options):
    """What `work` wrote, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "result.json")
        command = [__file__, "--worker", file, "--repeats", options.repeats]
        command += ["--smoke"] if options.smoke else []
        if kind == "replicas":
            command = [sys.executable, *map(str, command), "--replicas", str(count)]
            subprocess.run(command, check=True)
        else:
            with LocalCluster(command, count, folder) as cluster:
                codes = cluster.wait(1800)
                if any(codes):
                    sys.exit(cluster.output(int(np.argmax(codes))))
        return {"kind": kind, "replicas": count, **json.loads(file.read_text())}


def work(options):
    tf.get_logger().setLevel("ERROR")
    if options.replicas:
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * options.replicas
        tf.config.set_logical_device_configuration(cpu, logical)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(options.replicas)])
    else:
        strategy = keras_norms.training.multi_worker_strategy()
    sizes = [(layers, channels) for layers in LAYERS for channels in CHANNELS]
    rows = [row(strategy, *size, options) for size in (sizes[:1] if options.smoke else sizes)]
    is_chief = options.replicas or strategy.cluster_resolver.task_id == 0
    if is_chief:
        result = {"environment": environment(), "rows": rows}
        pathlib.Path(options.worker).write_text(json.dumps(result))


def row(strategy, layers, channels, options):
    kinds = {
        "alone": keras_norms.BatchNormalization,
        "ours": keras_norms.SyncBatchNormalization,
    }
    if (layers, channels) == STOCK_SIZE and hasattr(tf.keras, "Variable"):
        kinds["stock"] = lambda **options: tf.keras.layers.BatchNormalization(
            synchronized=True, **options
        )
        kinds["stock alone"] = tf.keras.layers.BatchNormalization
    steps = {
        name: Step(strategy, kind, layers, channels, name.replace(" ", "_"))
        for name, kind in kinds.items()
    }
    timings = interleaved({name: step.run for name, step in steps.items()}, options.repeats)
    found = {"layers": layers, "channels": channels}
    for name, timing in timings.items():
        found[f"{name} ms"] = timing.milliseconds
        found[f"{name} collectives"] = steps[name].collectives
    for name, base in (("ours", "alone"), ("stock", "stock alone")):
        if name in steps:
            cost = np.quantile(timings[name].seconds - timings[base].seconds, [0.25, 0.5, 0.75])
            found[f"{name} cost"] = [float(q) for q in cost]
            of_all = received(steps[name].run) - received(steps[base].run)
            found[f"{name} bytes received"] = of_all / strategy.num_replicas_in_sync
    found["payload"] = steps["ours"].payload
    return found


class Step:
    """A chain of layers, forward and backward."""

    def __init__(self, strategy, kind, layers, channels, label):
        with strategy.scope():
            chain = [kind(name=f"{label}_{layers}_{channels}_{i}") for i in range(layers)]
            for layer in chain:
                layer.build((None, channels))

        def of_replica():
            x = tf.random.stateless_normal((ROWS, channels), [1, 2])
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = x
                for layer in chain:
                    y = layer(y, training=True)
                loss = tf.reduce_sum(y**2)
            return tf.reduce_sum(tape.gradient(loss, x))

        traced = tf.function(lambda: strategy.run(of_replica), autograph=False)
        self.run = lambda: strategy.experimental_local_results(traced())[0]
        graph = traced.get_concrete_function().graph
        inputs = [op.inputs[0] for op in graph.get_operations() if is_collective(op.type)]
        of_worker = len(strategy.extended.worker_devices)
        self.collectives = len(inputs) / of_worker
        # Bytes of the vectors that a replica reduces.
        sizes = [tensor.shape.num_elements() * tensor.dtype.size for tensor in inputs]
        self.payload = sum(sizes) / of_worker


def received(run, steps=10):
    """Bytes that pass the loopback interface in a step of all processes."""

    def count():
        lines = LOOPBACK.read_text().splitlines() if LOOPBACK.exists() else []
        return next((int(line.split()[1]) for line in lines if line.strip().startswith("lo:")), 0)

    np.asarray(run())
    before = count()
    for _ in range(steps):
        np.asarray(run())
    return (count() - before) / steps


def table(blocks):
    grid = Table()
    for name in ("", "layers", "channels", "step ms", "cost ms (quartiles)", "stock's cost"):
        grid.add_column(name, justify="right")
    for name in ("collectives", "bytes sent a replica", "bytes seen"):
        grid.add_column(name, justify="right")
    for block in blocks:
        for row in block["rows"]:
            low, cost, high = (1e3 * q for q in row["ours cost"])
            stock = f"{1e3 * row['stock cost'][1]:.2f}" if "stock cost" in row else ""
            sent = ring_share(block["replicas"]) * row["payload"]
            seen = row["ours bytes received"] if block["kind"] == "workers" else None
            grid.add_row(
                f"{block['replicas']} {block['kind']}",
                str(row["layers"]),
                str(row["channels"]),
                f"{row['ours ms'][1]:.2f}",
                f"{cost:.2f} ({low:.2f}-{high:.2f})",
                stock,
                f"{row['ours collectives']:.0f}",
                f"{sent:,.0f}",
                "" if seen is None else f"{seen:,.0f}",
            )
    return grid


def ring_share(replicas):
    """What a replica sends in a ring all-reduce, as a multiple of the vector."""
    return 2 * (replicas - 1) / replicas


def fit(blocks):
    """Least squares over the rows of several workers, relative to what was measured."""
    rows = [(block["replicas"], row) for block in blocks for row in block["rows"]]
    rows = [(n, row) for (n, row), block in zip(rows, by_row(blocks), strict=True)
            if block["kind"] == "workers" and row["ours cost"][1] > 0]  # fmt: skip
    if len(rows) < 6:
        return None
    cost = np.array([row["ours cost"][1] for _, row in rows])
    terms = np.array(
        [
            [
                row["ours collectives"],
                row["ours collectives"] * 2 * (n - 1),
                ring_share(n) * row["payload"],
            ]
            for n, row in rows
        ]
    )
    weighted = terms / cost[:, np.newaxis]
    found, *_ = np.linalg.lstsq(weighted, np.ones(len(cost)), rcond=None)
    errors = np.abs(weighted @ found - 1.0)
    text = (
        f"Fit over {len(rows)} rows of workers: {1e6 * found[0]:.0f} us a collective, "
        f"{1e6 * found[1]:.0f} us a step of the ring, {1e-9 / found[2]:.2f} GB/s. "
        f"Error: median {100 * np.median(errors):.0f} %, largest {100 * errors.max():.0f} %."
    )
    return {"coefficients": found.tolist(), "errors": errors.tolist(), "text": text}


def by_row(blocks):
    return [block for block in blocks for _ in block["rows"]]


if __name__ == "__main__":
    main()
