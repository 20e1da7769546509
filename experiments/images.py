"""Labelled images: CIFAR-10 from a file or from Keras, and scikit-learn's digits."""

import numpy as np
import tensorflow as tf

from experiments.bad_input import BadInput, require

keras = tf.keras


def read_images(options, part, count):
    """The first `count` images of CIFAR-10 as uint8, and their labels.

    Args:
        options: of the command; `options.data` is a file for `read_jpegs`, or None.
        part: "train" or "test".
        count: how many; `BadInput` where there are fewer.
    """
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


def read_jpegs(path, part, count):
    """The first `count` images (uint8, 32x32x3) and labels of an .npz with JPEG bytes.

    Its arrays, for part "train" for example: train_jpeg, the bytes of all images; train_offsets,
    where each image begins, and the end of the last; train_labels, ints from 0 to 9.
    """
    names = [f"{part}_{name}" for name in ("jpeg", "offsets", "labels")]
    jpeg, offsets, labels = _read_arrays(path, names)
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


def _read_arrays(path, names):
    require(path.is_file(), f"there is no file {path}.")
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in names if name in archive}
    except Exception as error:
        raise BadInput(f"{path} cannot be read as an .npz file of plain arrays.") from error
    missing = [name for name in names if name not in arrays]
    require(not missing, f"{path} has no array {', '.join(missing)}.")
    return [arrays[name] for name in names]


def handwritten_digits(seed):
    """1,797 scans of handwritten digits, 8x8, values from 0 to 16, and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    return digits.images[order], digits.target[order]
