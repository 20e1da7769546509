"""Normalization with few images in each statistic: a small ResNet on CIFAR-10, method by method.

A step takes the mean gradient of 64 images, while the normalization works on groups of 4, 2 or 1
of them (`virtual_batch_size`), on groups of 8 that hold few labels, or on all 64, which is what
synchronized layers do with it. In the last setting each image is a step of its own.

Every finished run is added to `small_batches.json` in the folder `--out`, and what is there is not
run again: a training that was broken off goes on, and several processes may share the work. The
report beside it, a table and curves, is made of that file alone. What follows `## Reading` in the
report is the author's and kept.

    python examples/small_batches.py --data cifar10_jpeg.npz     hours on two CPU cores
    python examples/small_batches.py                             the same; Keras loads CIFAR-10
    python examples/small_batches.py --images 256 --epochs 1 --seeds 1     minutes, to see it run
    python examples/small_batches.py --settings groups-4 --methods BN BRN --seeds 1 2
    python examples/small_batches.py --report                    the report only
    python examples/small_batches.py --pilot                     how rates were chosen
"""

import argparse
import collections
import functools
import sys
import time
from pathlib import Path

import numpy as np
from experiment import add_options, check_options, exit_status, tf, train_missing
from images import BadInput, read_jpegs, require
from results import Results, made_of, plain
from small_batches_protocol import (
    BATCH,
    CLASSES,
    COLORS,
    LEARNING_RATE,
    MOMENTUM,
    PILOT,
    PILOT_BATCHLESS,
    PILOT_SEED,
    PILOT_TEST_IMAGES,
    SETTINGS,
    SLOW,
)
from small_batches_report import report

import keras_norms

keras = tf.keras


def main():
    return exit_status("small_batches", train_and_report, parse_arguments())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help=".npz with train_jpeg, train_offsets, train_labels and test_…")
    add("--images", type=int, default=10240, help="to train on, default %(default)s")
    add("--test-images", type=int, default=5000, help="default %(default)s")
    add("--epochs", type=int, default=12, help="default %(default)s")
    add("--momentum", type=float, default=MOMENTUM, help="of BN and BRN, default %(default)s")
    add("--learning-rate", type=float, default=LEARNING_RATE, help="default %(default)s")
    add("--settings", nargs="+", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    add("--methods", nargs="+", default=list(COLORS), help=f"of {', '.join(COLORS)}")
    add("--pilot", action="store_true", help="one run for each rate and multiplier of the pilots")
    add_options(parser, seeds=[1, 2, 3, 4, 5])
    return parser.parse_args()


def train_and_report(options, console):
    check(options)
    if options.pilot:
        pilot(options, console)
        return
    results = Results(options.out / "small_batches.json", size_of(options))
    if not options.report:
        train_all(options, results, console)
    options.out.mkdir(parents=True, exist_ok=True)
    with made_of(results.path):
        report(results.read(), options.out, console)


def check(options):
    names = ("setting", options.settings, SETTINGS), ("method", options.methods, COLORS)
    check_options(options, ["test_images", "epochs", "learning_rate"], names)
    require(
        options.images > 0 and options.images % BATCH == 0,
        f"--images must be a positive multiple of {BATCH}, but is {options.images}.",
    )
    require(0 <= options.momentum < 1, f"--momentum must be in [0, 1), not {options.momentum}.")
    steps = options.images // BATCH * options.epochs
    require(steps >= 3, f"BRN's schedule needs 3 steps of {BATCH} images, but there are {steps}.")


def size_of(options):
    names = ("learning_rate", "images", "test_images", "epochs", "momentum")
    return {name: getattr(options, name) for name in names}


# The images.


def read_images(options, part, count):
    """The first `count` images as uint8, and their labels."""
    if options.data is None:
        try:
            train, test = keras.datasets.cifar10.load_data()
        except Exception as error:
            raise BadInput(f"CIFAR-10 cannot be loaded ({error}); give --data.") from error
        x, y = train if part == "train" else test
        y = y[:, 0]
    else:
        x, y = read_jpegs(options.data, part, count)
    require(count <= len(x), f"{count} {part} images are asked for, but there are {len(x)}.")
    return x[:count], y[:count].astype("int32")


def course(labels, setting, epochs, seed):
    """Which rows each step takes, of shape (epochs, steps, batch), of the images and their mirror
    images behind them. The setting only arranges what the seed draws."""
    rng = np.random.default_rng(seed)
    count = len(labels)
    rows = np.stack([rng.permutation(count) for _ in range(epochs)]).reshape(-1, BATCH)
    mirrored = rng.integers(2, size=rows.shape) * count
    place = rng.permuted(np.tile(np.arange(CLASSES), (len(rows), 1)), axis=1)
    if setting.arranged:
        order = np.take_along_axis(place, labels[rows], 1)
        if setting.arranged == "pairs":  # First one pair of every label, then a second, and so on.
            same = order[:, :, None] == order[:, None, :]
            order = order + CLASSES * (np.tril(same, -1).sum(2) // 2)
        arranged = np.argsort(order, axis=1, kind="stable")
        rows, mirrored = (np.take_along_axis(a, arranged, 1) for a in (rows, mirrored))
    return (rows + mirrored).reshape(epochs, -1, setting.batch).astype("int32")


# The network.


def normalization(method, setting, steps, momentum):
    """Makes one layer."""
    shared = dict(momentum=momentum, virtual_batch_size=setting.group)
    ramp = keras_norms.schedules.LinearRamp.of_total
    return {
        "BN": lambda: keras_norms.BatchNormalization(**shared),
        "BRN": lambda: keras_norms.BatchRenormalization(
            r_max=ramp(steps, 0.04, 0.30, 1.0, 3.0),
            d_max=ramp(steps, 0.04, 0.19, 0.0, 5.0),
            **shared,
        ),
        "GroupNorm": lambda: keras.layers.GroupNormalization(groups=8),
        "Batchless": lambda: batchless(1.0),
        "Batchless-slow": lambda: batchless(SLOW),
    }[method]


def batchless(multiplier):
    return keras_norms.BatchlessNormalization(
        parametrization="log", learning_rate_multiplier=multiplier
    )


def network(normalized, seed):
    """`normalized` makes a layer. The other weights depend on the seed alone."""
    layers = keras.layers
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=100).tolist())

    def convolution(x, channels, size, stride=1):
        initializer = keras.initializers.HeNormal(seed=next(seeds))
        options = dict(padding="same", use_bias=False, kernel_initializer=initializer)
        x = layers.Conv2D(channels, size, stride, **options)(x)
        return normalized()(x)

    inputs = layers.Input((32, 32, 3))
    x = layers.Rescaling(1 / 64, -2)(inputs)
    x = layers.ReLU()(convolution(x, 16, 3, 2))
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(convolution(x, channels, 3, stride))
        y = convolution(y, channels, 3)
        shortcut = x if stride == 1 else convolution(x, channels, 1, stride)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.GlobalAveragePooling2D()(x)
    initializer = keras.initializers.GlorotUniform(seed=next(seeds))
    return keras.Model(inputs, layers.Dense(CLASSES, kernel_initializer=initializer)(x))


# The training.


def train_all(options, results, console):
    """Seed by seed, so that what is there when it is broken off can be compared."""
    runs = [
        (setting, method, seed)
        for seed in dict.fromkeys(options.seeds)
        for setting in SETTINGS
        for method in SETTINGS[setting].methods
        if setting in options.settings and method in options.methods
    ]
    require(runs, "none of these methods is part of these settings.")
    images, labels = read_images(options, "train", options.images)
    test = read_images(options, "test", options.test_images)

    def train_one(name, method, seed, after_epoch):
        setting = SETTINGS[name]
        rows = course(labels, setting, options.epochs, seed)
        layer = normalization(method, setting, rows[..., 0].size, options.momentum)
        data = images, labels
        return train(layer, data, test, rows, seed, options.learning_rate, after_epoch)

    train_missing(
        runs,
        results,
        console,
        options.epochs,
        train_one,
        lambda run: f"{run['test_accuracy'][-1]:.1%}",
    )


def train(normalized, data, test, rows, seed, rate, after_epoch=lambda: None):
    """Test accuracy, test loss and training loss of each epoch, and the seconds of the training."""
    keras.backend.clear_session()
    images, labels = data
    images, labels = np.concatenate([images, images[:, :, ::-1]]), np.tile(labels, 2)
    epochs, steps, batch = rows.shape
    model = network(normalized, seed)
    if any(isinstance(layer, keras_norms.BatchlessNormalization) for layer in model.layers):
        first = images[rows[0].ravel()[:BATCH]]
        keras_norms.initialize_statistics(model, first, batch_size=BATCH, verbose=0)
    rate = keras.optimizers.schedules.CosineDecay(rate * batch / BATCH, epochs * steps)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    train_epoch = epoch_of(model, optimizer, images, labels)
    evaluate = evaluation_of(model, *test)
    run = collections.defaultdict(list)
    seconds = 0.0
    for epoch_rows in tf.constant(rows):
        start = time.perf_counter()
        run["train_loss"].append(plain(train_epoch(epoch_rows)))
        seconds += time.perf_counter() - start
        accuracy, loss = evaluate()
        run["test_accuracy"].append(plain(accuracy))
        run["test_loss"].append(plain(loss))
        after_epoch()
    return {**run, "seconds": round(seconds, 1)}


def epoch_of(model, optimizer, images, labels):
    """An epoch as one graph: at one image a step, calls from Python would take most of the time."""
    images, labels = tf.constant(images), tf.constant(labels)
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function
    def train_epoch(rows):
        total = tf.constant(0.0)
        for step_rows in rows:
            x, y = tf.gather(images, step_rows), tf.gather(labels, step_rows)
            with tf.GradientTape() as tape:
                cross_entropy = tf.reduce_mean(cross_entropies(y, model(x, training=True)))
                loss = tf.add_n([cross_entropy, *model.losses])
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            total += cross_entropy
        return total / tf.cast(len(rows), tf.float32)

    return train_epoch


def evaluation_of(model, images, labels):
    predict = tf.function(lambda x: model(x, training=False))

    def evaluate():
        starts = range(0, len(images), 500)
        logits = tf.concat([predict(tf.constant(images[i : i + 500])) for i in starts], 0)
        correct = tf.argmax(logits, 1, tf.int32) == labels
        accuracy = tf.reduce_mean(tf.cast(correct, tf.float32))
        return accuracy, tf.reduce_mean(cross_entropies(labels, logits))

    return evaluate


def cross_entropies(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def pilot(options, console):
    seen = options.images
    images, labels = read_images(options, "train", seen + PILOT_TEST_IMAGES)
    rows = course(labels[:seen], SETTINGS["whole"], options.epochs, PILOT_SEED)
    data, held_out = (images[:seen], labels[:seen]), (images[seen:], labels[seen:])
    for rate in PILOT:
        layer = normalization("BN", SETTINGS["whole"], rows[..., 0].size, MOMENTUM)
        run = train(layer, data, held_out, rows, PILOT_SEED, rate)
        console.print(f"BN, learning rate {rate}: {run['test_accuracy'][-1]:.1%}")
    rows = course(labels[:seen], SETTINGS["batch-1"], options.epochs, PILOT_SEED)
    for rate, multiplier in PILOT_BATCHLESS:
        layer = functools.partial(batchless, multiplier)
        run = train(layer, data, held_out, rows, PILOT_SEED, rate)
        accuracy = run["test_accuracy"][-1]
        console.print(f"Batchless, learning rate {rate}, {multiplier}: {accuracy:.1%}")


if __name__ == "__main__":
    sys.exit(main())
