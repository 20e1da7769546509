"""The order of the images, the training and the evaluation."""

import collections
import time

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.results import plain
from experiments.small_batches.network import network
from experiments.small_batches.protocol import BATCH, CLASSES

keras = tf.keras


def course(labels, setting, epochs, seed):
    """The rows that each step takes, of shape (epochs, steps, batch).

    They are rows of the images followed by their mirror images. The setting only arranges what
    the seed draws. What `BATCH` does not divide is left out, other images in each epoch.
    """
    rng = np.random.default_rng(seed)
    count = len(labels)
    taken = count // BATCH * BATCH
    rows = np.stack([rng.permutation(count)[:taken] for _ in range(epochs)]).reshape(-1, BATCH)
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
