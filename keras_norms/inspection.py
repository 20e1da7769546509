"""`keras-norms inspect`: compares data with the reference of a saved model."""

import json
import pathlib
import sys


def add_arguments(command):
    """The arguments of `keras-norms inspect`."""
    add = command.add_argument
    add("model", metavar="MODEL", help="a model that Keras saved")
    add("--data", metavar="NPZ", required=True, help="inputs: one array, or one for each input")
    add("--reference", metavar="JSON", help="default: MODEL's name with .statistics.json")
    add("--record", action="store_true", help="write the reference from this data, compare nothing")
    add("--measure", choices=("psi", "kl"), default="psi", help="default psi")
    add("--threshold", type=float, default=0.25, help="of a drifted channel, default 0.25")
    add("--tolerate", type=float, default=0.0, metavar="SHARE", help="of drifted channels that is")
    add("--batch-size", type=int, default=32, help="default 32")
    add("--steps", type=int, help="read so many batches at most")
    add("--top", type=int, default=10, help="how many channels to list, default 10")
    add("--report", metavar="FOLDER", help="write drift.png and drift.html; needs matplotlib")
    add("--json", action="store_true", help="print JSON instead of a table")


def inspect(options):
    """Returns 0 where nothing drifted, 1 where something did, 2 where it cannot be said."""
    try:
        return _inspect(options)
    except (OSError, ValueError, ImportError, TypeError) as error:
        print(f"keras-norms inspect: {error}", file=sys.stderr)
        return 2


def _inspect(options):
    from keras_norms.diagnostics.statistics_reference import StatisticsReference

    if not 0 <= options.tolerate <= 1:
        raise ValueError(f"--tolerate must be a share in [0, 1]. Received: {options.tolerate}.")
    path = options.reference or StatisticsReference.beside(options.model)
    reference = None
    if not options.record:
        if not pathlib.Path(path).is_file():
            raise ValueError(
                f"there is no reference {path}. Make one from data that the model does well on: "
                f"keras-norms inspect {options.model} --data NPZ --record"
            )
        reference = StatisticsReference.load(path)
    model = load_model(options.model)
    data = read_npz(options.data, model)
    reading = dict(batch_size=options.batch_size, steps=options.steps, verbose=0)
    if options.record:
        StatisticsReference.of(model, data, **reading).save(path)
        print(f"Written: {path}")
        return 0
    drift = reference.compare(
        model, data, measure=options.measure, threshold=options.threshold, **reading
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
    from keras_norms.layers.keras_api import keras

    if not pathlib.Path(path).exists():
        raise ValueError(f"there is no model {path}.")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} cannot be loaded as a Keras model: {first}") from error


def read_npz(path, model):
    """The arrays of a file as the model's inputs."""
    import numpy as np

    if not pathlib.Path(path).is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    names = [tensor.name.partition(":")[0] for tensor in getattr(model, "inputs", None) or ()]
    if len(names) > 1:
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(
                f"{path} must have an array for each input, {', '.join(names)}. "
                f"Received: {', '.join(arrays) or 'none'}."
            )
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
    from rich.table import Table

    from keras_norms.diagnostics.drift_report import summary

    table = Table(title="keras-norms inspect", title_justify="left")
    table.add_column("layer", overflow="fold")
    names = ("channel", drift.measure, "mean", "stddev", "reference mean", "stddev")
    for name in names:
        table.add_column(name, justify="right")
    for channel in drift.ranked(max(options.top, 0)):
        color = "red" if channel.value > drift.threshold else "default"
        cells = (f"{value:.4g}" for value in channel[2:])
        table.add_row(channel.layer, str(channel.channel), *cells, style=color)
    console = Console()
    console.print(table)
    console.print(summary(drift), highlight=False, soft_wrap=True)
    for path in report:
        console.print(f"Written: {path}", highlight=False, soft_wrap=True)
