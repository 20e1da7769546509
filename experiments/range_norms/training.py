"""The batches, the training and the evaluation."""

import collections
import time

import numpy as np
import tensorflow as tf

from experiments.range_norms.contenders import HOMOGENEOUS
from experiments.range_norms.network import network
from experiments.range_norms.protocol import BATCH, CLASSES, CLASSES_IN_A_BATCH
from experiments.results import plain
from experiments.small_batches.training import cross_entropies, evaluation_of

keras = tf.keras


def mixed_rows(labels, epochs, rng):
    """The rows that each step takes, of shape (epochs, steps, batch): a permutation an epoch."""
    steps = len(labels) // BATCH
    rows = [rng.permutation(len(labels))[: steps * BATCH] for _ in range(epochs)]
    return np.reshape(rows, (epochs, steps, BATCH)).astype("int32")


def homogeneous_rows(labels, epochs, rng):
    """The same shape, with few classes in a batch.

    Each class has turns: `CLASSES / CLASSES_IN_A_BATCH` batches hold each class once. A class
    that is through its rows is shuffled again, so that an image is seen about once an epoch.
    """
    steps, share = len(labels) // BATCH, BATCH // CLASSES_IN_A_BATCH
    count = epochs * steps
    turns = -(-count * CLASSES_IN_A_BATCH // CLASSES)
    classes = np.concatenate([rng.permutation(CLASSES) for _ in range(turns)])
    classes = classes[: count * CLASSES_IN_A_BATCH]
    streams = [_stream(np.flatnonzero(labels == c), share * turns, rng) for c in range(CLASSES)]
    parts = [streams[c][share * np.sum(classes[:i] == c) :][:share] for i, c in enumerate(classes)]
    return np.reshape(parts, (epochs, steps, BATCH)).astype("int32")


def _stream(rows, count, rng):
    """`count` of the rows, shuffled again whenever all have been taken."""
    return np.concatenate([rng.permutation(rows) for _ in range(-(-count // len(rows)))])[:count]


def rows_of(batches, labels, epochs, seed):
    rng = np.random.default_rng(seed)
    return (homogeneous_rows if batches == HOMOGENEOUS else mixed_rows)(labels, epochs, rng)


def train(contender, batches, problem, epochs, rate, seed, after_epoch=lambda: None):
    """A run: training loss, test accuracy and test loss by epoch, seconds, and gates if any.

    The share of open gates of an epoch is that of its batches, the mean over layers.
    """
    keras.backend.clear_session()
    images, labels = problem.train
    rows = rows_of(batches, labels, epochs, seed)
    model = network(contender, images.shape[1:], problem.stages, seed)
    standardize = None
    if contender.standardization:
        standardize = contender.standardization(problem)
        standardize.adapt(images, labels)
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * rows.shape[1])
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
    train_epoch = epoch_of(model, standardize, optimizer, images, labels)
    evaluate = evaluation_of(model, *problem.test)
    run = collections.defaultdict(list)
    seconds = 0.0
    for epoch_rows in tf.constant(rows):
        start = time.perf_counter()
        loss, share = (plain(value) for value in train_epoch(epoch_rows))
        seconds += time.perf_counter() - start
        accuracy, test_loss = evaluate()
        run["train_loss"].append(loss)
        run["test_accuracy"].append(plain(accuracy))
        run["test_loss"].append(plain(test_loss))
        if standardize or adaptive_layers(model):
            run["open_gates"].append(share)
        after_epoch()
    return {**run, "seconds": round(seconds, 1)}


def epoch_of(model, standardize, optimizer, images, labels):
    """An epoch as one graph: returns the mean training loss and the mean share of open gates."""
    images, labels = tf.constant(images), tf.constant(labels)
    variables = model.trainable_variables
    optimizer.build(variables)
    gated = adaptive_layers(model)
    around = [tensor for layer in gated for tensor in (layer.input, layer.output)]
    observed = keras.Model(model.inputs, [model.output, *around])

    @tf.function
    def train_epoch(rows):
        total, opened = tf.constant(0.0), tf.constant(0.0)
        for step_rows in rows:
            given, y = tf.gather(images, step_rows), tf.gather(labels, step_rows)
            x = standardize(given, y) if standardize else given
            with tf.GradientTape() as tape:
                logits, *values = as_list(observed(x, training=True))
                loss = tf.reduce_mean(cross_entropies(y, logits))
            if standardize:
                opened += changed(given, x)
            for layer, before, after in zip(gated, values[::2], values[1::2], strict=True):
                opened += changed(layer.gamma * before + layer.beta, after) / len(gated)
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            total += loss
        count = tf.cast(len(rows), tf.float32)
        return total / count, opened / count

    return train_epoch


def as_list(outputs):
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]


def adaptive_layers(model):
    return [layer for layer in model.layers if "Adaptive" in type(layer).__name__]


def changed(before, after):
    """1 where a gate was open: normalizing changes a batch by far more than rounding does."""
    largest = tf.reduce_max(tf.abs(after - before))
    return tf.cast(largest > 1e-3 * tf.reduce_max(tf.abs(before)), tf.float32)
