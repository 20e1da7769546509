"""A training, and the accuracies with each kind of weights and of statistics."""

import contextlib
import time

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.drift.comparisons import corrupted
from experiments.drift.protocol import CORRUPTIONS
from experiments.recomputed_statistics.protocol import (
    AVERAGED_EPOCHS,
    BATCH,
    COUNTS,
    EMA_MOMENTUM,
    LEARNING_RATE,
    SEVERITIES,
)
from experiments.results import plain
from experiments.small_batches.network import network
from experiments.small_batches.protocol import SETTINGS
from experiments.small_batches.training import course, epoch_of, evaluation_of

keras = tf.keras


def measure(data, test, epochs, seed, after_epoch=lambda: None):
    """Everything to report of one seed, as JSON types. Accuracies are in percent."""
    keras.backend.clear_session()
    start = time.perf_counter()
    images, labels = data
    half = len(test[0]) // 2
    unlabelled, live = test[0][:half], (test[0][half:], test[1][half:])
    model = network(keras_norms.BatchNormalization, seed)
    weights = trained(model, images, labels, epochs, seed, after_epoch)
    accuracy = Accuracy(model, *live)
    found = {
        "averaged": {name: by_statistics(accuracy, w, images) for name, w in weights.items()},
        "shift": {},
    }
    for name in ("last", "swa", "ema"):
        model.set_weights(weights[name]["kept"])
        with state_restored(model):
            found["shift"][name] = shift(recomputed(model, images))
    model.set_weights(weights["last"]["kept"])
    with state_restored(model):
        recomputed(model, unlabelled)
        found["clean"] = accuracy()
    with state_restored(model):
        recomputed(model, images)
        of_training = model.get_weights()
    cases = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]
    found["corrupted"] = {
        f"{kind} {severity}": on_corrupted(model, of_training, unlabelled, live, kind, severity)
        for kind, severity in cases
    }
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def trained(model, images, labels, epochs, seed, after_epoch):
    """Weights by their name, each with the statistics that training left, or averaged ones."""
    rows = course(labels, SETTINGS["whole"], epochs, seed)
    optimizer = keras.optimizers.SGD(
        LEARNING_RATE, momentum=0.9, use_ema=True, ema_momentum=EMA_MOMENTUM
    )
    images, labels = np.concatenate([images, images[:, :, ::-1]]), np.tile(labels, 2)
    train_epoch = epoch_of(model, optimizer, images, labels)
    snapshots = []
    for epoch_rows in tf.constant(rows):
        train_epoch(epoch_rows)
        snapshots = [*snapshots, model.get_weights()][-AVERAGED_EPOCHS:]
        after_epoch()
    last = model.get_weights()
    mean = [np.mean(values, axis=0) for values in zip(*snapshots, strict=True)]
    is_trained = {id(w) for w in model.trainable_weights}
    kept = [
        average if id(w) in is_trained else value
        for w, average, value in zip(model.weights, mean, last, strict=True)
    ]
    optimizer.finalize_variable_values(model.trainable_variables)
    ema = model.get_weights()
    return {"last": {"kept": last}, "swa": {"kept": kept, "averaged": mean}, "ema": {"kept": ema}}


def by_statistics(accuracy, weights, images):
    """The accuracy with each kind of statistics."""
    found = {}
    for name, values in weights.items():
        accuracy.model.set_weights(values)
        found[name] = accuracy()
    accuracy.model.set_weights(weights["kept"])
    for name, options in (("recomputed", {}), ("sequential", {"sequential": True})):
        with state_restored(accuracy.model):
            recomputed(accuracy.model, images, **options)
            found[name] = accuracy()
    return found


def on_corrupted(model, of_training, unlabelled, live, kind, severity):
    """The accuracy on corrupted images, with statistics of training, and of such images.

    `of_training` are the weights with statistics that were recomputed from training images.
    """
    inputs = corrupted(unlabelled, kind, severity)
    accuracy = Accuracy(model, corrupted(live[0], kind, severity), live[1])
    found = {"kept": accuracy()}
    with state_restored(model):
        model.set_weights(of_training)
        found["training"] = accuracy()
    cases: dict = {"recomputed": (inputs, {})}
    if severity == max(SEVERITIES):
        cases["sequential"] = inputs, {"sequential": True}
        cases |= {str(n): (inputs[:n], {}) for n in COUNTS if n < len(inputs)}
    for name, (part, options) in cases.items():
        with state_restored(model):
            moved = recomputed(model, part, **options)
            found[name] = accuracy()
            if name == "recomputed":
                found["shift"] = shift(moved)
    return found


class Accuracy:
    """A function that returns the accuracy of a model in inference mode, in percent."""

    def __init__(self, model, images, labels):
        self.model = model
        self._evaluate = evaluation_of(model, images, labels)

    def __call__(self):
        return plain(100 * self._evaluate()[0])


def recomputed(model, images, **options):
    return keras_norms.recompute_statistics(model, images, batch_size=BATCH, verbose=0, **options)


def shift(moved):
    """Of mean and standard deviation, the mean over layers."""
    pairs = [(layer.mean_shift, layer.stddev_shift) for layer in moved.values()]
    return [plain(value) for value in np.mean(pairs, axis=0)]


@contextlib.contextmanager
def state_restored(model):
    before = model.get_weights()
    try:
        yield
    finally:
        model.set_weights(before)
