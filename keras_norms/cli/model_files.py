"""What commands read: a saved model, and its inputs."""

import contextlib
import importlib
import os
import pathlib
import sys
import tempfile

import numpy as np

import keras_norms.api  # noqa: F401  Its layers must be registered.
from keras_norms.files import write_whole
from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.printable import printable


def load_model(path, *, compiled=False, module=None):
    """The model, with layers of this package.

    Args:
        path: of the file.
        compiled: whether it is to be compiled as it was, if it can be.
        module: the name of a module that registers layers, imported first.

    Raises:
        ValueError: if it cannot be loaded.
    """
    if not pathlib.Path(path).exists():
        raise ValueError(f"there is no model {printable(path)}.")
    if module:
        sys.path.insert(0, "")  # As `python -m` does: the folder that the command is called in.
        with contextlib.redirect_stdout(sys.stderr):  # What it prints must not mix with our JSON.
            importlib.import_module(module)
    try:
        model = _loaded(path, compiled)
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


def _loaded(path, compiled):
    if compiled:
        try:
            return keras.models.load_model(path)
        except Exception:  # A loss may be a function that nobody registered.
            model = keras.models.load_model(path, compile=False)
            line = "the new model is not compiled, since Keras cannot read how the model was"
            print(f"keras-norms: {line}.", file=sys.stderr)
            return model
    return keras.models.load_model(path, compile=False)


def check_output(options):
    """Raises where the output of a command could not be written, before any work is done."""
    path = pathlib.Path(options.output)
    name = printable(path)
    if path.suffix != ".keras":
        raise ValueError(f"OUTPUT must end in .keras. Received: {name}.")
    if os.path.realpath(path) == os.path.realpath(options.model):
        raise ValueError(f"OUTPUT must be a file of its own. Received: {name}, the model.")
    if path.exists() and not options.force:
        raise ValueError(f"{name} exists; --force replaces it.")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {printable(path.parent)}.")


def save_model(model, path):
    """Saves a model beside the path and renames it into place, so no reader sees half a file."""
    with tempfile.TemporaryDirectory() as folder:
        written = pathlib.Path(folder, "model.keras")
        model.save(written)
        write_whole(path, written.read_bytes())


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
