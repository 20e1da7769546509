"""The stream, the model that learns from it, and what is saved on the way."""

import json
import resource

import tensorflow as tf

import keras_norms
from experiments.bad_input import require
from experiments.streaming.report import plot

keras = tf.keras
FOLLOWING = 10.0  # How much faster than the other weights the statistics move.


def stream(images, labels, record, start):
    """An endless dataset of single images with their labels, from image number `start` on."""
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


def create(images, labels, options):
    """A model whose statistics are initialized from the first images, and an empty record."""
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
    """Each replaces the old one when it is complete: an interrupted run loses nothing."""
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
