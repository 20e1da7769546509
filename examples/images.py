"""What the examples share: labelled images, and a TensorFlow that loads in silence."""

import contextlib
import os

import numpy as np


@contextlib.contextmanager
def quiet():
    """Drops what TensorFlow's libraries log while they load, before a log level applies."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


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


def read_arrays(path, names):
    require(path.is_file(), f"there is no file {path}.")
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in names if name in archive}
    except Exception as error:
        raise BadInput(f"{path} cannot be read as an .npz file of plain arrays.") from error
    missing = [name for name in names if name not in arrays]
    require(not missing, f"{path} has no array {', '.join(missing)}.")
    return [arrays[name] for name in names]


def read_npz(path):
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = dict(zip(names, read_arrays(path, names), strict=True))
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


def read_jpegs(path, part, count):
    """The first `count` images (uint8, 32x32x3) and labels of an .npz with JPEG bytes.

    Its arrays, for part "train" for example: train_jpeg, the bytes of all images; train_offsets,
    where each image begins, and the end of the last; train_labels, ints from 0 to 9.
    """
    import tensorflow as tf

    names = [f"{part}_{name}" for name in ("jpeg", "offsets", "labels")]
    jpeg, offsets, labels = read_arrays(path, names)
    require(
        jpeg.dtype == np.uint8 and offsets.dtype.kind in "ui" and labels.dtype.kind in "ui",
        f"{names[0]} must hold bytes, and {names[1]} and {names[2]} ints.",
    )
    require(
        jpeg.ndim == labels.ndim == 1 and offsets.shape == (len(labels) + 1,),
        f"{names[1]} must have one number more than the {len(labels)} of {names[2]}.",
    )
    require(
        len(labels) > 0 and 0 <= labels.min() <= labels.max() < 10,
        f"{names[2]} must be from 0 to 9, and at least one.",
    )
    try:
        images = [
            tf.io.decode_jpeg(jpeg[start:end].tobytes(), channels=3).numpy()
            for start, end in zip(offsets[:count], offsets[1 : count + 1], strict=False)
        ]
        return np.reshape(images, (-1, 32, 32, 3)), labels[:count]
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        raise BadInput(f"{names[0]} must hold JPEG images of 32x32 pixels.") from error


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
