"""One image at a time from a stream without end that changes under the model's feet.

A small network with `BatchlessNormalization` learns to tell images apart while they arrive one by
one. In the middle the camera changes: everything gets brighter and has twice the contrast. After
that it drifts. No batch is ever formed, so memory stays what one image takes.

The second moment E[z^2] of every layer is recorded and plotted while the training runs: 1 where the
statistics fit the data. It leaves 1 at the step, and comes back as the statistics follow.

The model is saved after every part of the stream, and `--resume` goes on from there. All it takes:
an image is a function of its number, the model knows how many it has seen
(`optimizer.iterations`), and the stream begins at that number.

    python examples/streaming.py                        about a minute on two CPU cores
    python examples/streaming.py --data cifar10_jpeg.npz
    python examples/streaming.py --instances 4000       then, at any later time:
    python examples/streaming.py --resume
"""

import argparse
import gc
import json
import resource
import sys
from pathlib import Path

from images import BadInput, handwritten_digits, quiet, read_jpegs, require

with quiet():
    import tensorflow as tf

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import keras_norms

keras = tf.keras
tf.get_logger().setLevel("ERROR")

FOLLOWING = 10.0  # How much faster than the other weights the statistics move.
BAND = (0.8, 1.25)
WINDOW = 100  # Images that E[z^2] is averaged over: one says little.
IMAGES = 5_000  # Of a file at most.
PART = 500  # Images between two pictures, and between two saved models.


def main():
    options = parse_arguments()
    try:
        require(options.instances > 0, f"--instances must be positive, not {options.instances}.")
        given = options.step_at is not None or options.seed is not None
        require(
            not (options.resume and given), "--resume goes on with the old --step-at and --seed."
        )
        options.step_at = 5_000 if options.step_at is None else options.step_at
        options.seed = 1 if options.seed is None else options.seed
        require(not options.out.is_file(), f"{options.out} is a file, not a folder.")
        images, labels = read(options)
        model, record = load(options) if options.resume else create(images, labels, options)
        fits = model.input_shape[1:] == images.shape[1:]
        require(fits, f"the model in {options.out} was made for other images.")
        options.out.mkdir(parents=True, exist_ok=True)
    except (BadInput, OSError) as error:
        print(f"streaming: {error}", file=sys.stderr)
        return 2
    seen, parts = int(model.optimizer.iterations), -(-options.instances // PART)
    print(f"{len(images)} images; instances {seen} to {seen + parts * PART}, each a step.")
    model.fit(
        stream(images, labels, record, seen),
        steps_per_epoch=PART,
        epochs=parts,
        shuffle=False,
        callbacks=[Live(record, options.out)],
    )
    summarize(record, options.out)
    return 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help=".npz with train_jpeg, train_offsets and train_labels")
    add(
        "--instances",
        type=int,
        default=10_000,
        help=f"how many images, in parts of {PART}; default %(default)s",
    )
    add("--step-at", type=int, help="when the camera changes; default 5000")
    add("--seed", type=int, help="default 1")
    add("--out", type=Path, default=Path("streaming_output"), help="default %(default)s")
    add("--resume", action="store_true", help="go on with the model in --out, for --instances more")
    return parser.parse_args()


# The stream.


def read(options):
    """Images in [0, 1], (n, height, width, channels), and labels."""
    if options.data is None:
        images, labels, *_ = handwritten_digits(options.seed)
        return images[..., np.newaxis].astype("float32") / 16.0, labels
    images, labels = read_jpegs(options.data, "train", IMAGES)
    return images.astype("float32") / 255.0, labels


def stream(images, labels, record, start):
    """An endless `tf.data` stream of (image, label) batches of one, from instance `start` on."""
    images, labels = tf.constant(images), tf.constant(labels, tf.int64)
    seed, step_at = record["seed"], record["step_at"]

    def instance(number):
        choice = tf.random.stateless_uniform([], [seed, number], maxval=len(images), dtype=tf.int64)
        after = tf.cast(tf.maximum(number - step_at, 0), tf.float32)
        stepped = tf.cast(number >= step_at, tf.float32)
        contrast = 1.0 + stepped * (1.0 + 0.5 * tf.sin(after / 1000.0))
        brightness = stepped * (1.0 + after / 2000.0)
        image = contrast * images[choice] + brightness
        return image[tf.newaxis], labels[choice][tf.newaxis]

    return tf.data.Dataset.range(start, 2**62).map(instance).prefetch(16)


# The model.


def create(images, labels, options):
    """A model whose statistics are those of the first images, and a record to fill."""
    keras.utils.set_random_seed(options.seed)

    def normalization(name):
        return keras_norms.BatchlessNormalization(
            name=name, monitor=0.0, learning_rate_multiplier=FOLLOWING
        )

    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            normalization("input"),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
            normalization("first"),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
            normalization("second"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(int(labels.max()) + 1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    keras_norms.initialize_statistics(model, images[:256], verbose=0)
    record = dict(seed=options.seed, step_at=options.step_at)
    return model, dict(**record, moments={}, accuracy=[], megabytes={})


def load(options):
    model, record = (options.out / name for name in ("stream.keras", "record.json"))
    require(model.is_file() and record.is_file(), f"there is nothing to resume in {options.out}.")
    return keras.models.load_model(model), json.loads(record.read_text())


def save(model, record, folder):
    """Each is written beside the old one first: a run that is broken off loses nothing."""
    for name, write in (
        ("stream.keras", model.save),
        ("record.json", lambda path: path.write_text(json.dumps(record))),
    ):
        beside = folder / f"new_{name}"
        write(beside)
        beside.replace(folder / name)


class Live(keras_norms.callbacks.SecondMomentMonitor):
    """Keeps the record, the picture and the saved model up to date."""

    def __init__(self, record, folder):
        super().__init__(band=(0.0, float("inf")), every=1)
        self._record, self._folder = record, folder

    def on_epoch_end(self, epoch, logs=None):
        for name, values in self.history.items():
            self._record["moments"].setdefault(name, []).extend(values)
        self.history.clear()
        self.steps.clear()
        self._record["accuracy"].append(float(logs["accuracy"]))
        self._record["megabytes"][str(int(self.model.optimizer.iterations))] = peak_memory()
        plot(self._record, self._folder / "second_moments.png")
        save(self.model, self._record, self._folder)


def peak_memory():
    """The most memory that the process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# What came of it.


def averaged(values):
    """Means of WINDOW values each, ending at every one that has so many before it."""
    sums = np.cumsum([0.0, *values])
    return (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW


def recovery(values, step_at):
    """After how many images the means of WINDOW images lie in the band, and stay there.

    That is, for the next 1000 images, or as many as there are. None if they do not.
    """
    after = averaged(values[step_at:])[:1000]
    outside = np.flatnonzero((after < BAND[0]) | (after > BAND[1]))
    last = int(outside[-1]) if len(outside) else -1
    return last + 1 + WINDOW if last + 1 < len(after) else None


def summarize(record, folder):
    table = Table("layer", "E z² before", "right after", "at the end", "images to return")
    step_at = record["step_at"]
    for name, values in record["moments"].items():
        back = recovery(values, step_at)
        parts = values[max(step_at - WINDOW, 0) : step_at], values[step_at:][:10], values[-WINDOW:]
        means = [f"{np.mean(part):.2f}" if len(part) else "" for part in parts]
        table.add_row(name, *means, "" if back is None else str(back))
    Console().print(table)
    memory = {int(seen): size for seen, size in record["megabytes"].items()}
    first = min(memory, key=lambda seen: abs(seen - 1000))
    print(f"Most memory held: {memory[first]:.0f} MB by image {first}, ", end="")
    print(f"{max(memory.values()):.0f} MB by image {max(memory)}.")
    print(f"Picture: {folder / 'second_moments.png'}, model: {folder / 'stream.keras'}")


def plot(record, path):
    figure = Figure(figsize=(8, 6))
    moments, accuracy = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for name, values in record["moments"].items():
        means = averaged(values)
        places = np.unique(np.linspace(0, len(means) - 1, 1000, dtype=int))
        moments.plot(places + WINDOW, means[places], label=name, linewidth=1)
    moments.axhspan(*BAND, color="0.9", label=f"{BAND[0]} to {BAND[1]}")
    moments.set(yscale="log", ylabel=f"E z², mean of {WINDOW} images")
    moments.yaxis.set_major_formatter("{x:g}")
    moments.yaxis.set_minor_formatter("")
    moments.set_yticks([0.25, 0.5, 1, 2, 4, 8])
    moments.legend(title="layer", loc="upper right")
    seen = [int(images) for images in record["megabytes"]]
    accuracy.plot(seen, record["accuracy"], color="0.3")
    accuracy.set(ylabel=f"accuracy, last {PART} images", xlabel="images seen", ylim=(0, 1))
    for axes in (moments, accuracy):
        axes.axvline(record["step_at"], color="0.6", linestyle="--", linewidth=1)
    accuracy.annotate(
        "the camera changes", (record["step_at"], 0.85), (5, 0), textcoords="offset points"
    )
    figure.tight_layout()
    beside = path.with_name("new_" + path.name)
    figure.savefig(beside, dpi=120)
    beside.replace(path)
    del figure, moments, accuracy, axes
    gc.collect()  # A figure refers to itself, and Python would let many of them gather.


if __name__ == "__main__":
    sys.exit(main())
