"""What commands that change models have in common: errors, files, and the report they print."""

import contextlib
import json
import math
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_norms.cli.errors import sentence
from keras_norms.cli.model_files import check_output, load_model, save_model
from keras_norms.printable import printable


def guarded(command, function, *arguments):
    """Runs a command; returns 0, or 2 on an error, of which a pipeline reads one line."""
    try:
        function(*arguments)
    except (Exception, SystemExit) as error:
        what = sentence(error).removeprefix(f"{command}: ")
        print(f"keras-norms {command}: {what}", file=sys.stderr)
        return 2
    return 0


def write_changed(options, change):
    """Writes what `change(model)` returns, a model and a report, and prints the report."""
    check_output(options)
    with contextlib.redirect_stdout(sys.stderr):  # Progress bars.
        model, report = change(load_model(options.model, compiled=True, module=options.module))
    save_model(model, options.output)
    if options.json:
        rows = [{name: _plain(cell) for name, cell in row._asdict().items()} for row in report]
        print(json.dumps({"output": options.output, "layers": rows}, indent=2))
    else:
        _print(report, options)


def _print(report, options):
    console = Console()
    if not console.is_terminal:
        console.width = 200  # A file is searched by line: names stay whole.
    rows = [row._asdict() for row in report]
    table = Table(title=f"keras-norms {options.command}", title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)
    console.print(f"Written: {printable(options.output)}", markup=False, highlight=False)


def _plain(value):
    """JSON has no numbers that are not finite."""
    is_infinite = isinstance(value, float) and not math.isfinite(value)
    return None if is_infinite else value


def _cell(value):
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else escape(printable(value))
