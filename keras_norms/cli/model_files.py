"""What commands read: a saved model, and its inputs."""

import pathlib

import numpy as np

import keras_norms.api  # noqa: F401  Its layers must be registered.
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.printable import printable


def load_model(path):
    """The model, with layers of this package.

    Raises:
        ValueError: if it cannot be loaded.
    """
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{printable(path)} cannot be loaded as a Keras model: {printable(first)}"
        ) from error
    if not model.built:
        raise ValueError(
            f"{printable(path)} was saved before the model had weights: build it first."
        )
    return model


def read_npz(path, model):
    """The arrays of a file as the model's inputs."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"there is no file {printable(path)}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        raise ValueError(
            f"{printable(path)} cannot be read as .npz of plain arrays, as np.savez writes them."
        ) from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError(f"{printable(path)} must hold arrays alone, as np.savez writes them.")
    for name, array in arrays.items():
        if array.ndim == 0 or array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
            raise ValueError(
                f"the arrays of {printable(path)} must hold numbers, instance by instance. "
                f"Received: '{printable(name)}' of {array.dtype} and shape {array.shape}."
            )
    structure = getattr(model, "input", None)
    tensors = getattr(model, "inputs", None) or ()
    # Keras 2 names tensors "x:0"; in Keras 3 a colon is part of the name.
    names = [t.name if IS_KERAS_3 else t.name.partition(":")[0] for t in tensors]
    if isinstance(structure, dict):
        names = list(structure)
    if len(names) > 1 or isinstance(structure, dict):
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(
                f"{printable(path)} must have an array for each input, {_listed(names)}. "
                f"Received: {_listed(arrays)}."
            )
        if isinstance(structure, dict):
            return {name: arrays[name] for name in names}
        return [arrays[name] for name in names]
    for name in (*names, "x"):
        if name in arrays:
            return arrays[name]
    if len(arrays) != 1:
        raise ValueError(
            f"{printable(path)} must have one array, or the inputs as 'x'. "
            f"Received: {_listed(arrays)}."
        )
    return next(iter(arrays.values()))


def _listed(names):
    return ", ".join(map(printable, names)) or "none"
