"""Labelled images for the examples: scikit-learn's digits, or arrays of the user's own."""

import numpy as np


class BadInput(Exception):
    """One sentence for the user."""


def require(holds, sentence):
    if not holds:
        raise BadInput(sentence)


def handwritten_digits(seed):
    """1,797 scans of handwritten digits, 8x8; 500 of them are for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    x, y = digits.images[order], digits.target[order]
    return x[500:], y[500:], x[:500], y[:500]


def read_npz(path):
    names = ("x_train", "y_train", "x_test", "y_test")
    require(path.is_file(), f"there is no file {path}.")
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in names if name in archive}
    except Exception as error:
        raise BadInput(f"{path} cannot be read as an .npz file of plain arrays.") from error
    missing = [name for name in names if name not in arrays]
    require(not missing, f"{path} has no array {', '.join(missing)}.")
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        require(
            x.dtype.kind in "uif" and x.ndim in (3, 4),
            f"x_{part} must hold numbers of shape (n, h, w) or (n, h, w, c), "
            f"but is {x.dtype} of shape {x.shape}.",
        )
        require(
            y.shape == x.shape[:1],
            f"y_{part} must hold a label for each of {len(x)} images, but has shape {y.shape}.",
        )
        require(y.dtype.kind in "ui", f"y_{part} must hold ints, but is {y.dtype}.")
    train, test = (arrays[name].shape[1:] for name in ("x_train", "x_test"))
    require(train == test, f"images to train on have shape {train}, those to test on {test}.")
    return [arrays[name] for name in names]


def prepared(data, step, few=False):
    """Images as floats with a channel axis, scaled by the largest value.

    Args:
        data: x_train, y_train, x_test, y_test.
        step: images that a training step takes; there must be as many.
        few: the first 320 to train on, and 160 to test on, only.
    """
    x_train, y_train, x_test, y_test = data
    if few:
        x_train, y_train, x_test, y_test = x_train[:320], y_train[:320], x_test[:160], y_test[:160]
    require(
        min(len(x_train), len(x_test)) >= step,
        f"a step takes {step} images; there are {len(x_train)} to train and {len(x_test)} to test.",
    )
    require(
        0 <= min(y_train.min(), y_test.min()) and y_test.max() <= y_train.max(),
        "labels must count from 0, and those to test on must be among those to train on.",
    )
    largest = np.abs(x_train).max() or 1
    x_train, x_test = (np.asarray(x / largest, "float32") for x in (x_train, x_test))
    require(np.isfinite(x_train).all() and np.isfinite(x_test).all(), "images must be finite.")
    if x_train.ndim == 3:
        x_train, x_test = x_train[..., np.newaxis], x_test[..., np.newaxis]
    return x_train, y_train.astype("int64"), x_test, y_test.astype("int64")
