"""The streams: a model continues training, with poisoned batches or without."""

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.drift.protocol import (
    BATCH,
    CLIPNORM,
    LAYERS,
    POISON,
    POISONED_SHARE,
    RATES,
    SEED,
    STREAMS,
)
from experiments.results import plain
from experiments.small_batches.network import network
from experiments.small_batches.protocol import CLASSES
from experiments.small_batches.training import cross_entropies, evaluation_of

keras = tf.keras


def poison(weights, pool, test, options, progress):
    """Accuracies along each stream."""
    bounds = dict.fromkeys(bound for bound, _ in STREAMS.values())
    models = {bound: network(normalization(bound), SEED) for bound in bounds}
    evaluations = {bound: evaluation_of(model, *test) for bound, model in models.items()}
    cases = [(mode, name) for mode in RATES for name in STREAMS]
    found = []
    task = progress.add_task("streams", total=len(cases) * len(options.seeds))
    for mode, name in cases:
        bound, is_poisoned = STREAMS[name]
        step = step_of(models[bound], RATES[mode])
        for seed in options.seeds:
            models[bound].set_weights(weights)
            batches = stream(*pool, options.stream, is_poisoned, seed)
            accuracies = follow(step, batches, evaluations[bound], options.stream)
            found.append({"mode": mode, "stream": name, "seed": seed, "accuracy": accuracies})
            progress.advance(task)
    return found


def step_of(model, rate):
    """A training step. With rate 0 only the moving statistics change."""
    variables = model.trainable_variables
    optimizer = keras.optimizers.SGD(rate, clipnorm=CLIPNORM)
    optimizer.build(variables)

    @tf.function
    def step(x, y):
        if rate == 0:
            model(x, training=True)
            return
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropies(y, model(x, training=True)))
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    return step


def stream(images, labels, count, is_poisoned, seed):
    """Yields images, labels, and whether the batch is at a place for poison."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(len(images), size=(count, BATCH))
    bad = generator.choice(count, max(1, round(POISONED_SHARE * count)), replace=False)
    wrong = generator.integers(CLASSES, size=(count, BATCH)).astype("int32")
    for number, batch_rows in enumerate(rows):
        x, y = images[batch_rows], labels[batch_rows]
        is_bad = number in bad
        if is_bad and is_poisoned:
            x, y = POISON * x, wrong[number]
        yield tf.constant(x), tf.constant(y), is_bad


def follow(step, batches, evaluate, count):
    """Pairs of the number of batches seen and the accuracy then."""
    accuracies, every = [[0, percent(evaluate)]], max(1, count // 5)
    for number, (x, y, is_bad) in enumerate(batches, 1):
        step(x, y)
        if is_bad or number % every == 0 or number == count:
            accuracies.append([number, percent(evaluate)])
    return accuracies


def normalization(max_update=None):
    """Makes one layer after the other."""
    names = iter(LAYERS)
    return lambda: keras_norms.BatchNormalization(max_update=max_update, name=next(names))


def percent(evaluate):
    return plain(100 * evaluate()[0])
