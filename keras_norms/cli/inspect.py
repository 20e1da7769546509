"""`keras-norms inspect`: compares data with the reference of a saved model."""

import json
import os
import pathlib
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_norms.cli.errors import sentence
from keras_norms.cli.model_files import load_model, read_npz
from keras_norms.diagnostics.drift_report import columns, summary, write_report
from keras_norms.diagnostics.statistics_reference import StatisticsReference
from keras_norms.printable import printable


def run(options):
    """Returns 0 where nothing drifted, 1 where something did, 2 on an error."""
    try:
        return _inspect(options)
    except (Exception, SystemExit) as error:  # A pipeline reads one line, whatever went wrong.
        print(f"keras-norms inspect: {sentence(error)}", file=sys.stderr)
        return 2


def _inspect(options):
    _check(options)
    path = options.reference or StatisticsReference.beside(options.model)
    reference: Any = None if options.record else _load_reference(path, options.model)
    model = load_model(options.model, module=options.module)
    data = read_npz(options.data, model)
    reading = dict(batch_size=options.batch_size, steps=options.steps, verbose=0)
    if options.record:
        return _record(path, model, data, options, reading)
    drift = reference.compare(
        model,
        data,
        measure=options.measure,
        threshold=options.threshold,
        same_weights=not options.other_weights,
        **reading,
    )
    report = _report(drift, options) if options.report else ()
    if options.json:
        print(json.dumps(drift.to_json(), indent=2))
    else:
        _print(drift, options, report)
    return 1 if drift.share > options.tolerate else 0


def _check(options):
    """Raises ValueError for invalid options, before TensorFlow reads anything."""
    if options.report and pathlib.Path(options.report).is_file():
        raise ValueError(f"--report must be a folder. Received: the file {options.report}.")
    if not 0 <= options.tolerate <= 1:
        raise ValueError(f"--tolerate must be a share in [0, 1]. Received: {options.tolerate}.")
    if options.top < 0:
        raise ValueError(f"--top must be at least 0. Received: {options.top}.")
    if options.record and (options.report or options.json):
        raise ValueError("--record compares nothing, so it takes no --report and no --json.")
    if not pathlib.Path(options.model).exists():
        raise ValueError(f"there is no model {options.model}.")


def _load_reference(path, model):
    if not pathlib.Path(path).is_file():
        raise ValueError(
            f"there is no reference {printable(path)}. Make one from data that the model does well "
            f"on: keras-norms inspect {model} --data NPZ --record"
        )
    return StatisticsReference.load(path)


def _record(path, model, data, options, reading):
    for other in (options.model, options.data):
        if os.path.realpath(path) == os.path.realpath(other):
            raise ValueError(f"--reference must be a file of its own. Received: {other}.")
    StatisticsReference.of(model, data, **reading).save(path)
    print(f"Written: {printable(path)}")
    return 0


def _report(drift, options):
    names = [pathlib.Path(path).name for path in (options.data, options.model)]
    return write_report(drift, options.report, " against the reference of ".join(names))


def _print(drift, options, report):
    table = Table(title="keras-norms inspect", title_justify="left")
    first, *others = columns(drift)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    for channel in drift.ranked(options.top):
        color = "red" if channel.value > drift.threshold else "default"
        cells = (f"{value:.4g}" for value in channel[2:])
        table.add_row(escape(printable(channel.layer)), str(channel.channel), *cells, style=color)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # A file is searched by line: names stay whole.
    console.print(table)
    verdict = "more than" if drift.share > options.tolerate else "within"
    line = f"{summary(drift)} This is {verdict} the tolerated share of {options.tolerate:g}."
    console.print(line, highlight=False, soft_wrap=True)
    for path in report:
        console.print(f"Written: {printable(path)}", markup=False, highlight=False, soft_wrap=True)
