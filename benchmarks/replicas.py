"""A small convolutional network on several CPU replicas: synchronized batch norm, step time.

Each number of replicas, and each Keras, runs in a process of its own: strategies of
different sizes in one process collide on collective keys, and a process has one `tf.keras`.
Within a process the contenders take turns. Where tf_keras is installed it is measured, too.

    python benchmarks/replicas.py [--replicas 2,4] [--repeats 60] [--layers 16]
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from graphs import executed_graphs, is_collective, is_operation, operations
from rich.console import Console
from rich.table import Table
from timing import environment, headline, interleaved

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras

GLOBAL_BATCH = 16
IMAGE = (16, 16, 16)
CLASSES = 10
BASELINE = "stock sync"
FLOOR = "no norm"


def main():
    options = arguments()
    if options.worker:
        return work(options)
    console, blocks = Console(), []
    console.width = max(console.width, 110)
    for legacy in keras_choices():
        for replicas in options.replicas:
            blocks.append(run_worker(replicas, legacy, options))
            console.print(headline(blocks[-1]["environment"]))
            console.print(table(blocks[-1]))
    console.print(
        f"Step: median of {options.repeats} interleaved training steps of {options.layers} layers "
        f"with a global batch of {GLOBAL_BATCH}; the ratio is the median over rounds. Collectives "
        "(forward + backward) and operations: what one normalization adds on one replica. "
        "Operations leave out constants and identities; executed ones are those that TensorFlow's "
        "optimization leaves."
    )
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(blocks))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replicas", default="2,4", help="separated by commas")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="small, to see that it runs")
    parser.add_argument("--worker", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.repeats, options.layers = 3, 2
    options.replicas = [int(n) for n in options.replicas.split(",")]
    if any(GLOBAL_BATCH % n for n in options.replicas):
        parser.error(f"The number of replicas must divide {GLOBAL_BATCH}.")
    return options


def keras_choices():
    """Values for TF_USE_LEGACY_KERAS: as it is, then tf_keras where that is another one."""
    given = os.environ.get("TF_USE_LEGACY_KERAS", "0")
    both = given not in ("1", "true", "True") and importlib.util.find_spec("tf_keras")
    return [given, "1"] if both else [given]


def run_worker(replicas, legacy, options):
    """Returns what `work` wrote in another process."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "result.json")
        command = [sys.executable, __file__, "--worker", str(file), "--replicas", str(replicas)]
        command += ["--repeats", str(options.repeats), "--layers", str(options.layers)]
        subprocess.run(command, check=True, env={**os.environ, "TF_USE_LEGACY_KERAS": legacy})
        return json.loads(file.read_text())


def table(block):
    grid = Table(title=f"{block['replicas']} replicas, {block['environment']['keras']}")
    grid.add_column("normalization")
    times = ("step ms", "(quartiles)", "time / stock sync")
    for name in (*times, "collectives", "operations traced", "executed"):
        grid.add_column(name, justify="right")
    for name, row in block["contenders"].items():
        low, median, high = row["milliseconds"]
        counts = row["counts"]
        grid.add_row(
            name,
            f"{median:.1f}",
            f"({low:.1f}-{high:.1f})",
            f"{row['over_baseline']:.2f}",
            f"{counts['collectives_forward']:.3g} + {counts['collectives_backward']:.3g}",
            f"{counts['operations_traced']:.0f}",
            f"{counts['operations_executed']:.0f}",
        )
    return grid


def work(options):
    """Measures one number of replicas with the Keras of this process."""
    tf.get_logger().setLevel("ERROR")
    (replicas,) = options.replicas
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * replicas,
    )
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    contenders = {
        name: Contender(strategy, normalization, options.layers)
        for name, normalization in normalizations().items()
    }
    timings = interleaved({n: c.step for n, c in contenders.items()}, options.repeats)
    floor = contenders[FLOOR]
    rows = {
        name: {
            "milliseconds": timings[name].milliseconds,
            "over_baseline": timings[name].over(timings[BASELINE]),
            "counts": contender.counts(floor, options.layers * replicas),
        }
        for name, contender in contenders.items()
    }
    result = {"environment": environment(), "replicas": replicas, "contenders": rows}
    pathlib.Path(options.worker).write_text(json.dumps(result))


def normalizations():
    return {
        BASELINE: lambda: keras.layers.BatchNormalization(synchronized=True),
        "ours sync": keras_norms.SyncBatchNormalization,
        "stock": keras.layers.BatchNormalization,
        "ours": keras_norms.BatchNormalization,
        FLOOR: lambda: keras.layers.Activation("linear"),
    }


class Contender:
    """A model with one kind of normalization, its training step, and what that consists of."""

    def __init__(self, strategy, normalization, layers):
        with strategy.scope():
            model = keras.Sequential([keras.layers.InputLayer(IMAGE)])
            for _ in range(layers):
                model.add(keras.layers.Conv2D(IMAGE[-1], 3, padding="same", use_bias=False))
                model.add(normalization())
                model.add(keras.layers.ReLU())
            model.add(keras.layers.GlobalAveragePooling2D())
            model.add(keras.layers.Dense(CLASSES))
            optimizer = keras.optimizers.SGD(0.01)
            if IS_KERAS_3:  # Otherwise its variables would be made in replica context.
                optimizer.build(model.trainable_variables)

        def replica_step(x, label):
            with tf.GradientTape() as tape:
                loss = keras.losses.sparse_categorical_crossentropy(
                    label, model(x, training=True), from_logits=True
                )
                loss = tf.reduce_sum(loss) / GLOBAL_BATCH
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        @tf.function
        def step(x, label):
            return strategy.reduce("SUM", strategy.run(replica_step, (x, label)), axis=None)

        @tf.function
        def forward(x):
            return strategy.run(lambda x: model(x, training=True), (x,))

        def of_each_replica(make):
            return strategy.experimental_distribute_values_from_function(make)

        rows = GLOBAL_BATCH // strategy.num_replicas_in_sync
        x = of_each_replica(lambda _: tf.random.normal((rows, *IMAGE)))
        label = of_each_replica(lambda _: tf.zeros((rows,), tf.int32))
        self.step = lambda: step(x, label)
        self.traced = operations([step.get_concrete_function(x, label).graph.as_graph_def()])
        self.forward = operations([forward.get_concrete_function(x).graph.as_graph_def()])
        self.executed = operations(executed_graphs(self.step))

    def counts(self, floor, share):
        """What the normalizations add to the model without them, divided by `share`."""

        def added(graph, is_counted):
            here, there = (
                sum(n for kind, n in getattr(contender, graph).items() if is_counted(kind))
                for contender in (self, floor)
            )
            return (here - there) / share

        forward = added("forward", is_collective)
        return {
            "collectives_forward": forward,
            "collectives_backward": added("traced", is_collective) - forward,
            "operations_traced": added("traced", is_operation),
            "operations_executed": added("executed", is_operation),
        }


if __name__ == "__main__":
    main()
