"""What the reports of the studies share: statistics over seeds, tables, pictures and the page."""

import io
import re
from importlib import metadata

import numpy as np
import tensorflow as tf
from rich.table import Table
from scipy import stats

from experiments.bad_input import BadInput
from experiments.results import write
from keras_norms.files import write_whole

# Statistics over seeds.


def mean_and_error(values):
    """The mean over seeds and its standard error, which is NaN for a single seed."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return np.mean(values), error


def with_error(values, digits):
    """`1.2 ± 0.3`, or `1.2` for a single seed; `digits` is a number format without its type."""
    mean, error = mean_and_error(values)
    places = digits.removeprefix("+")
    return f"{mean:{digits}f}" + ("" if np.isnan(error) else f" ± {error:{places}f}")


def compared(values):
    """A mean of differences, and whether it is more than two standard errors from 0."""
    mean, error = mean_and_error(values)
    if np.isnan(error):
        return with_error(values, "+.1")
    is_within = abs(mean) <= 2 * error
    verdict = "within" if is_within else "above" if mean > 0 else "below"
    return f"{with_error(values, '+.1')} {verdict}"


def interval(values):
    """The mean and half of its 95 % interval by Student's t, which is NaN for a single value."""
    count = len(values)
    if count < 2:
        return np.mean(values), np.nan
    error = np.std(values, ddof=1) / count**0.5
    return np.mean(values), stats.t.ppf(0.975, count - 1) * error


def with_interval(values):
    """`-0.31 [-1.20, +0.58]`."""
    if not values:
        return ""
    mean, half = interval(values)
    shown = f"{mean:+.2f}"
    return shown if np.isnan(half) else f"{shown} [{mean - half:+.2f}, {mean + half:+.2f}]"


def with_deviation(values):
    """`61.2 ± 0.4`, with the standard deviation over seeds."""
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation}"


def last(run, metric, scale=1):
    """The metric at the end; NaN where the training diverged."""
    value = run[metric][-1] if isinstance(run[metric], list) else run[metric]
    return np.nan if value is None else scale * value


def differences(runs, pair, other, metric, scale=1):
    """At the end, seed by seed where both have run. `runs` is `{pair: {seed: run}}`."""
    ours, theirs = runs.get(pair, {}), runs.get(other, {})
    return [
        last(ours[seed], metric, scale) - last(theirs[seed], metric, scale)
        for seed in ours
        if seed in theirs and pair != other
    ]


def by_seed(runs, pairs):
    """`{pair: {seed: run}}` of a results file, for the pairs that have runs."""
    found = {}
    for pair in pairs:
        of_pair = {
            int(key.rpartition("/")[2]): run
            for key, run in runs.items()
            if key.startswith("/".join(pair) + "/")
        }
        if of_pair:
            found[pair] = of_pair
    return found


def plot_band(panel, x, values, color, **line):
    """The mean over seeds, in a band of one standard error; returns the line."""
    mean, error = values.mean(0), np.zeros(values.shape[1])
    if len(values) > 1:
        error = np.std(values, axis=0, ddof=1) / len(values) ** 0.5
    (drawn,) = panel.plot(x, mean, color=color, lw=1.6, **line)
    panel.fill_between(x, mean - error, mean + error, color=color, alpha=0.2)
    return drawn


# Tables and pictures.


def claim(sentence, holds, value):
    """A line of the list of results."""
    verdict = holds if isinstance(holds, str) else "holds" if holds else "does not hold"
    return f"* {sentence[0].upper()}{sentence[1:]}: **{verdict}**, {value}."


def markdown_table(header, rows, left=2):
    """The lines of a table; the first `left` columns are left-aligned."""
    rule = ["---"] * left + ["--:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def print_table(console, title, header, rows, left=2):
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(header):
        table.add_column(heading, justify="left" if index < left else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def save_figure(figure, path):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    write_whole(path, file.getvalue())


# The page.


def write_page(path, title, command, protocol, results, console):
    """Writes the report; what the author wrote from `## Reading` on is kept.

    Args:
        path: the Markdown file.
        title: its heading.
        command: the command that measures it again.
        protocol: Markdown.
        results: a list of Markdown parts.
        console: of rich.
    """
    write(path, page(title, command, protocol, results, reading(path)))
    console.print(f"Report: {path}")


def page(title, command, protocol, results, kept=""):
    parts = [f"# {title}", f"    {command}", "## Protocol, written before the run", protocol]
    parts += ["## Results", *results]
    text = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    return text + (f"\n{kept}" if kept else "")


def command_line(study, data, **options):
    """As a user would write it."""
    words = [f"python -m experiments.{study} --data {data}"]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def versions():
    keras = tf.keras.Model.__module__.partition(".")[0]
    return f"TensorFlow {tf.__version__}, {keras} {metadata.version(keras)}"


def reading(path):
    """What the author wrote in a report, from `## Reading` on."""
    if not path.exists():
        return ""
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise BadInput(f"{path} is not UTF-8, so it is not replaced.") from error
    found = re.search(r"^## Reading\b.*", text, re.DOTALL | re.MULTILINE)
    return found[0] if found else ""
