"""Results of experiments: a file that several processes add to, and what reports say of it."""

import contextlib
import fcntl
import io
import json
import os
import re
from importlib import metadata

import numpy as np
from images import BadInput, quiet, require
from rich.table import Table

from keras_norms.files import write_whole

with quiet():
    import tensorflow as tf


class Results:
    """The runs so far, in a file that several processes add to.

    Args:
        path: of the file, which need not be there.
        size: images, epochs and the like; a file has runs of one size only.
    """

    def __init__(self, path, size):
        self.path, self.size = path, size
        self.read()

    def read(self):
        if not self.path.exists():
            return {"size": self.size, "runs": {}}
        content = read_json(self.path)
        size = content.get("size")
        is_whole = isinstance(size, dict) and isinstance(content.get("runs"), dict)
        require(is_whole and self.are_runs(content["runs"]), f"{self.path} is no file of results.")
        changed = [
            f"{name} {value}" for name, value in size.items() if value != self.size.get(name)
        ]
        require(not changed, f"{self.path} has runs with {', '.join(changed)}; give another --out.")
        return content

    def has(self, *key):
        return self.key(*key) in self.read()["runs"]

    def add(self, *key, run):
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # No other process adds between reading and writing.
            content = self.read()
            content["runs"][self.key(*key)] = run
            content["runs"] = dict(sorted(content["runs"].items()))
            lines = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in content["runs"].items())
            size, runs = json.dumps(content["size"]), ",\n".join(lines)
            write(self.path, f'{{"size": {size},\n"runs": {{\n{runs}\n}}}}\n')
        finally:
            os.close(folder)

    @staticmethod
    def are_runs(runs):
        """Whether they look like what `add` wrote; a training's key ends in its seed."""
        return all(
            isinstance(run, dict)
            and ("/" not in key or (key.rpartition("/")[2].isdecimal() and "seconds" in run))
            for key, run in runs.items()
        )

    @staticmethod
    def key(*parts):
        """Of a run, setting, method and seed for example."""
        return "/".join(map(str, parts))


def plain(scalar):
    """For JSON, which has no NaN: a training that diverged has None there."""
    value = round(float(scalar), 5)
    return value if np.isfinite(value) else None


def read_json(path):
    """What is to be a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no file of results.") from error
    require(isinstance(content, dict), f"{path} is no file of results.")
    return content


@contextlib.contextmanager
def made_of(path):
    """Within, what is made of results that somebody has changed fails with one sentence."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is no file of results ({error!r}).") from error


def write(path, text):
    """Beside the path first, and then in its place."""
    write_whole(path, text.encode())


def save_figure(figure, path):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    write_whole(path, file.getvalue())


def mean_and_error(values):
    """The mean and its standard error, which one value does not have."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return np.mean(values), error


def compared(values):
    mean, error = mean_and_error(values)
    if np.isnan(error):
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ± {error:.1f} {verdict(mean, error)}"


def verdict(mean, error):
    if abs(mean) <= 2 * error:
        return "within"
    return "above" if mean > 0 else "below"


def markdown_table(header, rows, left=2):
    """The lines of a table whose first columns, so many, are left-aligned."""
    rule = ["---"] * left + ["--:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def print_table(console, title, header, rows, left=2):
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(header):
        table.add_column(heading, justify="left" if index < left else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def versions():
    keras = tf.keras.Model.__module__.partition(".")[0]
    return f"TensorFlow {tf.__version__}, {keras} {metadata.version(keras)}"


def reading(path):
    """What the author wrote in a report, from `## Reading` on, to be kept."""
    if not path.exists():
        return ""
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise BadInput(f"{path} is not UTF-8, so it is not replaced.") from error
    found = re.search(r"^## Reading\b.*", text, re.DOTALL | re.MULTILINE)
    return found[0] if found else ""
