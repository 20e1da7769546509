"""A training, and what is measured during it and at its end."""

import collections
import time

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.renorm_convergence.protocol import MOMENTUM, SIZE, TRAINING_IMAGES, WIDTHS
from experiments.results import plain
from experiments.small_batches.network import network
from experiments.small_batches.training import course, cross_entropies, epoch_of, evaluation_of

keras = tf.keras


def halved(images):
    """Each 2x2 pixels as their average, uint8."""
    means = images.reshape(len(images), SIZE, 2, SIZE, 2, 3).mean((2, 4), dtype="float32")
    return np.round(means).astype("uint8")


def normalization(method, setting, ramps, steps):
    """Makes one layer. `ramps` is None for BN."""
    shared = dict(momentum=MOMENTUM, virtual_batch_size=setting.group)
    if method == "BN":
        return lambda: keras_norms.BatchNormalization(**shared)
    r_max, d_max = (
        keras_norms.schedules.LinearRamp.of_total(steps, *ramp) for ramp in (ramps.r, ramps.d)
    )
    return lambda: keras_norms.BatchRenormalization(
        r_max=r_max, d_max=d_max, clipping_metrics=True, **shared
    )


def train(contender, data, test, epochs, seed, after_epoch=lambda: None, at_end=True):
    """A run: by epoch losses, test accuracy and the shares of clipped r and d; `ending` at the end.

    Args:
        contender: a `Contender`.
        data: images and labels.
        test: the same, to measure on.
        epochs: how many.
        seed: of the weights and of the order of the images.
        after_epoch: called after each epoch.
        at_end: whether to measure what `ending` does.
    """
    keras.backend.clear_session()
    rows = course(data[1], contender.setting, epochs, seed)
    steps = rows[..., 0].size
    method, setting, ramps, rate = contender
    model = network(normalization(method, setting, ramps, steps), seed, SIZE, WIDTHS)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
    train_epoch = epoch_of(model, optimizer, *with_mirror_images(*data))
    evaluate = evaluation_of(model, *test)
    run = collections.defaultdict(list)
    seconds = 0.0
    for epoch_rows in tf.constant(rows):
        start = time.process_time()  # Stands still while the process is stopped.
        run["train_loss"].append(plain(train_epoch(epoch_rows)))
        seconds += time.process_time() - start
        accuracy, loss = evaluate()
        run["test_accuracy"].append(plain(accuracy))
        run["test_loss"].append(plain(loss))
        for name, share in clipped_shares(model).items():
            run[name].append(share)
        after_epoch()
    found = {**run, "steps": steps, "seconds": round(seconds, 1)}
    return {**found, **ending(model, setting, data, test, seed)} if at_end else found


def with_mirror_images(images, labels):
    return np.concatenate([images, images[:, :, ::-1]]), np.tile(labels, 2)


def clipped_shares(model):
    """The shares of clipped r and d since the last call, the mean over layers."""
    layers = [x for x in model.layers if isinstance(x, keras_norms.BatchRenormalization)]
    found = {}
    for name in ("r_clipped", "d_clipped") if layers else ():
        metrics = [getattr(layer, name) for layer in layers]
        found[name] = plain(np.mean([metric.result() for metric in metrics]))
        for metric in metrics:
            metric.reset_state()
    return found


def ending(model, setting, data, test, seed):
    """What tells training and inference apart, of a trained model.

    `train_inference_loss` is the loss in inference on training images; `batch_accuracy` and
    `batch_loss` are those on the test images in training mode, in groups as in training;
    `mean_tid` and `variance_tid` the discrepancy of such groups of training images, the mean over
    layers.
    """
    images, labels = (part[:TRAINING_IMAGES] for part in data)
    _, inference_loss = evaluation_of(model, images, labels)()
    kept = model.get_weights()
    accuracy, loss = evaluate_by_batches(model, setting, *test, seed)
    model.set_weights(kept)
    rows = course(labels, setting, 1, seed)[0]
    batches = tf.data.Dataset.from_tensor_slices(with_mirror_images(images, labels)[0][rows])
    found = keras_norms.diagnostics.training_inference_discrepancy(model, batches, verbose=0)
    return {
        "train_inference_loss": plain(inference_loss),
        "batch_accuracy": plain(accuracy),
        "batch_loss": plain(loss),
        "mean_tid": plain(np.mean([layer.mean for layer in found.values()])),
        "variance_tid": plain(np.mean([layer.variance for layer in found.values()])),
    }


def evaluate_by_batches(model, setting, images, labels, seed):
    """Accuracy and loss in training mode, batches arranged as in training."""
    images, labels = (tf.constant(part) for part in with_mirror_images(images, labels))

    @tf.function
    def evaluate(rows):
        accuracy, loss = tf.constant(0.0), tf.constant(0.0)
        for step_rows in rows:
            x, y = tf.gather(images, step_rows), tf.gather(labels, step_rows)
            logits = model(x, training=True)
            correct = tf.argmax(logits, 1, tf.int32) == y
            accuracy += tf.reduce_mean(tf.cast(correct, tf.float32))
            loss += tf.reduce_mean(cross_entropies(y, logits))
        count = tf.cast(len(rows), tf.float32)
        return accuracy / count, loss / count

    return evaluate(tf.constant(course(labels.numpy()[: len(labels) // 2], setting, 1, seed)[0]))
