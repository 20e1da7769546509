"""`keras-norms inspect`: compares data with the reference of a saved model."""

import contextlib
import importlib
import json
import os
import pathlib
import re
import sys


def add_arguments(command):
    """The arguments of `keras-norms inspect`."""
    add = command.add_argument
    add("model", metavar="MODEL", help="a model that Keras saved")
    add("--data", metavar="NPZ", required=True, help="inputs: one array, or one for each input")
    add("--reference", metavar="JSON", help="default: MODEL's name with .statistics.json")
    add("--import", metavar="MODULE", dest="module", help="import it first: it registers layers")
    add("--other-weights", action="store_true", help="the model has been trained since --record")
    add("--record", action="store_true", help="write the reference from this data, compare nothing")
    add("--measure", choices=("psi", "kl"), default="psi", help="default psi")
    add("--threshold", type=float, default=0.25, help="of a drifted channel, default 0.25")
    add(
        "--tolerate",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of channels that may drift, default 0; a few hundred instances keep chance below it",
    )
    add("--batch-size", type=int, default=32, help="default 32")
    add("--steps", type=int, help="read so many batches at most")
    add("--top", type=int, default=10, help="how many channels the table lists, default 10")
    add("--report", metavar="FOLDER", help="write drift.png and drift.html; needs matplotlib")
    add("--json", action="store_true", help="print JSON instead of a table")


def inspect(options):
    """Returns 0 where nothing drifted, 1 where something did, 2 where it cannot be said."""
    try:
        return _inspect(options)
    except (Exception, SystemExit) as error:  # A pipeline reads one line, whatever went wrong.
        print(f"keras-norms inspect: {_sentence(error)}", file=sys.stderr)
        return 2


def _sentence(error):
    """The line of an error that says something; Keras puts others around it, in colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception encountered")]
    return (telling or lines or [type(error).__name__])[0]


def _inspect(options):
    from keras_norms.diagnostics.statistics_reference import StatisticsReference

    if options.report and pathlib.Path(options.report).is_file():
        raise ValueError(f"--report must be a folder. Received: the file {options.report}.")
    if not 0 <= options.tolerate <= 1:
        raise ValueError(f"--tolerate must be a share in [0, 1]. Received: {options.tolerate}.")
    if options.top < 0:
        raise ValueError(f"--top must be at least 0. Received: {options.top}.")
    if options.record and (options.report or options.json):
        raise ValueError("--record compares nothing, so there is no --report and no --json.")
    if not pathlib.Path(options.model).exists():
        raise ValueError(f"there is no model {options.model}.")
    path = options.reference or StatisticsReference.beside(options.model)
    reference = None
    if not options.record:
        if not pathlib.Path(path).is_file():
            raise ValueError(
                f"there is no reference {path}. Make one from data that the model does well on: "
                f"keras-norms inspect {options.model} --data NPZ --record"
            )
        reference = StatisticsReference.load(path)
    if options.module:
        sys.path.insert(0, "")  # As `python -m` does: the folder that the command is called in.
        with contextlib.redirect_stdout(sys.stderr):  # What it prints is no part of our JSON.
            importlib.import_module(options.module)
    for other in (options.model, options.data):
        if options.record and os.path.realpath(path) == os.path.realpath(other):
            raise ValueError(f"--reference must be a file of its own. Received: {other}.")
    model = load_model(options.model)
    data = read_npz(options.data, model)
    reading = dict(batch_size=options.batch_size, steps=options.steps, verbose=0)
    if options.record:
        StatisticsReference.of(model, data, **reading).save(path)
        print(f"Written: {path}")
        return 0
    drift = reference.compare(
        model,
        data,
        measure=options.measure,
        threshold=options.threshold,
        same_weights=not options.other_weights,
        **reading,
    )
    found = drift.share > options.tolerate
    report = _report(drift, options) if options.report else ()
    if options.json:
        print(json.dumps(drift.to_json(), indent=2))
    else:
        _print(drift, options, report)
    return 1 if found else 0


def load_model(path):
    """The model, with layers of this package.

    Raises:
        ValueError: if it cannot be loaded.
    """
    import keras_norms  # noqa: F401  Its layers must be registered.
    from keras_norms.keras_api import keras

    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} cannot be loaded as a Keras model: {first}") from error
    if not model.built:
        raise ValueError(f"{path} was saved before the model had weights: build it first.")
    return model


def read_npz(path, model):
    """The arrays of a file as the model's inputs."""
    import numpy as np

    from keras_norms.keras_api import IS_KERAS_3

    if not pathlib.Path(path).is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as .npz of plain arrays, as np.savez writes them."
        ) from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError(f"{path} must hold arrays alone, as np.savez writes them.")
    for name, array in arrays.items():
        if array.ndim == 0 or array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
            raise ValueError(
                f"the arrays of {path} must hold numbers, instance by instance. "
                f"Received: '{name}' of {array.dtype} and shape {array.shape}."
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
                f"{path} must have an array for each input, {', '.join(names)}. "
                f"Received: {', '.join(arrays) or 'none'}."
            )
        if isinstance(structure, dict):
            return {name: arrays[name] for name in names}
        return [arrays[name] for name in names]
    for name in (*names, "x"):
        if name in arrays:
            return arrays[name]
    if len(arrays) != 1:
        raise ValueError(
            f"{path} must have one array, or the inputs as 'x'. "
            f"Received: {', '.join(arrays) or 'none'}."
        )
    return next(iter(arrays.values()))


def _report(drift, options):
    from keras_norms.diagnostics.drift_report import write_report

    title = f"{pathlib.Path(options.data).name} against the reference of "
    return write_report(drift, options.report, title + pathlib.Path(options.model).name)


def _print(drift, options, report):
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from keras_norms.diagnostics.drift_report import columns, summary

    table = Table(title="keras-norms inspect", title_justify="left")
    first, *others = columns(drift)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    for channel in drift.ranked(options.top):
        color = "red" if channel.value > drift.threshold else "default"
        cells = (f"{value:.4g}" for value in channel[2:])
        table.add_row(escape(channel.layer), str(channel.channel), *cells, style=color)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # A file is searched by line: names stay whole.
    console.print(table)
    verdict = "more than" if drift.share > options.tolerate else "within"
    line = f"{summary(drift)} This is {verdict} the share of {options.tolerate:g} to be tolerated."
    console.print(line, highlight=False, soft_wrap=True)
    for path in report:
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
