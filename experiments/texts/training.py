"""What the studies on texts share: their options, batches, training, and TID."""

import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import keras_norms
from experiments.bad_input import BadInput, require
from experiments.command import add_options, check_options
from experiments.results import plain
from experiments.texts.report import ORDERS
from experiments.texts.transformer import NORMALIZATIONS

keras = tf.keras


def add_text_options(parser, folder, epochs, seeds):
    add = parser.add_argument
    add("--data", type=Path, help=f"a folder with {folder}")
    add("--epochs", type=int, default=epochs, help="default %(default)s")
    add("--orders", nargs="+", default=list(ORDERS), help=f"of {', '.join(ORDERS)}")
    names = list(NORMALIZATIONS)
    add("--methods", nargs="+", default=names, help=f"of {', '.join(names)}")
    add_options(parser, seeds)


def check_text_options(options):
    names = ("order", options.orders, ORDERS), ("method", options.methods, NORMALIZATIONS)
    check_options(options, ["epochs"], names)
    require(options.data or options.report, "--data must name the folder with the sentences.")


def runs_of(options):
    """Seed by seed, so that the runs of an interrupted study can be compared."""
    return [
        (order, method, seed)
        for seed in dict.fromkeys(options.seeds)
        for order in options.orders
        for method in options.methods
    ]


def read_lines(path):
    """The lines of a UTF-8 text. Only a line feed ends one; `str.splitlines` knows more."""
    require(path.is_file(), f"there is no file {path}.")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise BadInput(f"{path} is not UTF-8.") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def first_of(lines, count, option):
    """The first `count` lines; `BadInput` where there are fewer."""
    require(count <= len(lines), f"{option} {count} are asked for, but there are {len(lines)}.")
    return lines[:count]


def vectorizer(lines, sizes):
    """A layer from sentences to word numbers, split at blanks."""
    layer = keras.layers.TextVectorization(sizes.vocabulary, standardize=None, split="whitespace")
    layer.adapt(lines)
    return layer


def batched(part, batch, seed=None):
    """A dataset. With a seed it is reshuffled in each epoch and drops an incomplete batch."""
    dataset = tf.data.Dataset.from_tensor_slices(part)
    if seed is not None:
        dataset = dataset.shuffle(len(part[0]), seed=seed)
    return dataset.batch(batch, drop_remainder=seed is not None)


def fit(model, training, held_out, name, epochs, method, after_epoch, tid_batches=None):
    """Trains a compiled model.

    Args:
        model: with its optimizer and loss.
        training: a dataset that shuffles itself.
        held_out: the dataset that is evaluated after each epoch.
        name: the prefix of its results in the run.
        epochs: the number of epochs.
        method: a name in `NORMALIZATIONS`. LN has no TID.
        after_epoch: called after each epoch.
        tid_batches: the number of training batches for the TID at the end; None for all.

    Returns:
        The run: losses and metrics of each epoch, TID during training and at the end, seconds.
    """
    tid = keras_norms.callbacks.TrainingInferenceDiscrepancy(every=min(10, len(training)))
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: after_epoch())]
    start = time.perf_counter()
    history = model.fit(
        training,
        validation_data=held_out,
        epochs=epochs,
        shuffle=False,  # The dataset does that.
        verbose=0,
        callbacks=callbacks + ([] if method == "LN" else [tid]),
    ).history
    run = {"seconds": round(time.perf_counter() - start, 1)}
    for key in history:
        if key == "loss":
            run["train_loss"] = list(map(plain, history[key]))
        elif key.startswith("val_"):
            run[f"{name}_{key.removeprefix('val_')}"] = list(map(plain, history[key]))
    if method == "LN":
        return run
    run["tid_steps"] = tid.steps
    found = keras_norms.diagnostics.training_inference_discrepancy(
        model, training, steps=tid_batches, verbose=0
    )
    for kind in ("mean", "variance"):
        values = np.mean([kept[kind] for kept in tid.history.values()], axis=0)
        run[f"tid_{kind}"] = list(map(plain, values))
        run[f"final_tid_{kind}"] = plain(np.mean([getattr(d, kind) for d in found.values()]))
    return run
