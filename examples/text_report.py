"""The reports of the experiments on texts: a table, curves, and what they say of the claims."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from results import (
    compared,
    markdown_table,
    mean_and_error,
    print_table,
    reading,
    save_figure,
    versions,
    write,
)

COLORS = {"LN": "tab:green", "BN": "tab:orange", "RBN": "tab:purple"}
ORDERS = {"pre": "Pre-Norm", "post": "Post-Norm"}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a report is of.

    Attributes:
        name: of the script and its files.
        title: of the report.
        metric: the name in the runs, of a value for each epoch or of one at the end.
        label: of the metric, with its unit.
        scale: what it is multiplied by.
        curves: `{label: (name in the runs, scale)}`, what is plotted against epochs.
        data: of the command line, as users would write it.
        protocol: Markdown.
    """

    name: str
    title: str
    metric: str
    label: str
    scale: float
    curves: dict
    data: str
    protocol: str


def report(experiment, content, out, console):
    """Writes the report beside the results, and prints its table."""
    runs = by_pair(content["runs"])
    path = out / f"{experiment.name}.md"
    figures = []
    if runs:
        figures = [f"{experiment.name}_{kind}.png" for kind in ("curves", "tid")]
        plot(runs, experiment.curves, out / figures[0])
        tids = {"mean TID": ("tid_mean", 1), "variance TID": ("tid_variance", 1)}
        plot(runs, tids, out / figures[1], "tid_steps")
    header = ["order", "method", "seeds", experiment.label, "less LN", "less BN"]
    header += ["mean TID", "variance TID", "seconds"]
    rows = [row_of(runs, pair, experiment) for pair in runs]
    # Without what does not fit into 80 columns, which is in the report.
    narrow_header, *narrow = ([row[i] for i in (0, 1, 3, 4, 5)] for row in (header, *rows))
    print_table(console, "On the test sentences", narrow_header, narrow)
    drift = content["runs"].get("drift", {})
    found = claims(runs) + drift_claims(drift)
    parts = experiment, content, header, rows, found, figures + drift_table(drift)
    kept = reading(path)
    write(path, markdown(*parts) + (f"\n{kept}" if kept else ""))
    console.print(f"Report: {path}")


def by_pair(runs):
    """By order and method, then by seed."""
    found = {}
    for order in ORDERS:
        for method in COLORS:
            of_pair = {
                int(key.rpartition("/")[2]): run
                for key, run in runs.items()
                if key.startswith(f"{order}/{method}/")
            }
            if of_pair:
                found[order, method] = of_pair
    return found


def last(run, name, scale=1):
    """The value at the end; NaN where a training diverged."""
    value = run[name][-1] if isinstance(run[name], list) else run[name]
    return np.nan if value is None else scale * value


def differences(runs, pair, other, *name):
    """Seed by seed, where both have run."""
    ours, theirs = runs.get(pair, {}), runs.get(other, {})
    both = [seed for seed in ours if seed in theirs and pair != other]
    return [last(ours[seed], *name) - last(theirs[seed], *name) for seed in both]


def with_error(values, digits):
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f}" + ("" if np.isnan(error) else f" ± {error:.{digits}f}")


def row_of(runs, pair, experiment):
    of_pair, metric = runs[pair].values(), (experiment.metric, experiment.scale)
    cells = [with_error([last(run, *metric) for run in of_pair], 1)]
    for other in ("LN", "BN"):
        values = differences(runs, pair, (pair[0], other), *metric)
        cells.append(compared(values) if values else "")
    for kind in ("final_tid_mean", "final_tid_variance"):
        values = [last(run, kind) for run in of_pair if kind in run]
        cells.append(with_error(values, 4) if values else "")
    seconds = np.mean([run["seconds"] for run in of_pair])
    return [ORDERS[pair[0]], pair[1], f"{len(of_pair)}", *cells, f"{seconds:.0f}"]


def claims(runs):
    lines = []
    for order, title in ORDERS.items():
        for kind in ("mean", "variance"):
            values = differences(runs, (order, "RBN"), (order, "BN"), f"final_tid_{kind}")
            claim = f"* {title}, {kind} TID of RBN below that of BN"
            if len(values) > 1:
                mean, error = mean_and_error(values)
                found = "holds" if mean < -2 * error else "does not hold"
                lines.append(f"{claim}: **{found}**, {mean:+.4f} ± {error:.4f}.")
            elif values:
                lines.append(f"{claim}: **one seed cannot say**, {values[0]:+.4f}.")
    return lines


def drift_claims(drift):
    """`drift` is average psi, flagged share and accuracy by the share of lost words."""
    if not drift:
        return []
    averages = [found["average"] for found in drift.values()]
    rises = sum(after > before for before, after in zip(averages, averages[1:], strict=False))
    flagged = next(iter(drift.values()))["flagged"]
    holds = "holds" if rises == len(averages) - 1 else "does not hold"
    clean = "holds" if flagged <= 0.01 else "does not hold"
    return [
        f"* The average psi rises with each share of lost words: **{holds}**, {rises} of "
        f"{len(averages) - 1} steps.",
        f"* Clean halves have at most 1 % of channels above 0.25: **{clean}**, {flagged:.1%}.",
    ]


def drift_table(drift):
    if not drift:
        return []
    header = ["words lost", "average psi", "channels above 0.25", "accuracy, %"]
    rows = [
        [f"{float(share):.0%}", f"{of['average']:.4f}", f"{of['flagged']:.1%}"]
        + [f"{100 * of['accuracy']:.1f}"]
        for share, of in drift.items()
    ]
    return ["### Drift by lost words", markdown_table(header, rows, left=0)]


def plot(runs, metrics, path, steps=None):
    orders = [order for order in ORDERS if any(pair[0] == order for pair in runs)]
    figure = Figure(figsize=(4.4 * len(orders), 0.5 + 3.1 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), len(orders), sharex=True, sharey="row", squeeze=False)
    handles = {}
    for row, (label, (metric, scale)) in zip(panels, metrics.items(), strict=True):
        row[0].set_ylabel(label)
        for panel, order in zip(row, orders, strict=True):
            for method, color in COLORS.items():
                of_pair = [run for run in runs.get((order, method), {}).values() if metric in run]
                if not of_pair:
                    continue
                values = scale * np.array([run[metric] for run in of_pair], float)
                x = of_pair[0][steps] if steps else np.arange(1, 1 + values.shape[1])
                mean, error = values.mean(0), np.zeros(values.shape[1])
                if len(values) > 1:
                    error = np.std(values, axis=0, ddof=1) / len(values) ** 0.5
                marker = "o" if len(x) == 1 else None  # Which no line shows.
                (handles[method],) = panel.plot(x, mean, color=color, lw=1.6, marker=marker)
                panel.fill_between(x, mean - error, mean + error, color=color, alpha=0.2)
            if steps:
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter("{x:g}")
                panel.yaxis.set_minor_locator(NullLocator())
            panel.grid(alpha=0.3)
    for panel, order in zip(panels[0], orders, strict=True):
        panel.set_title(ORDERS[order], fontsize=10)
    for panel in panels[-1]:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_xlabel("step" if steps else "epoch")
    labels = [method for method in COLORS if method in handles]
    figure.legend(
        [handles[m] for m in labels], labels, loc="outside upper center", ncols=3, frameon=False
    )
    save_figure(figure, path)


def markdown(experiment, content, header, rows, claims, figures):
    size = content["size"]
    options = " ".join(f"--{name} {value}" for name, value in size.items())
    command = f"    python examples/{experiment.name}.py --data {experiment.data} {options}"
    parts = [f"# {experiment.title}", command, "## Protocol, written before the run"]
    parts += [experiment.protocol, "## Results"]
    if rows:
        runs = [run for run in content["runs"].values() if "seconds" in run]
        seconds = sum(run["seconds"] for run in runs)
        parts += ["\n".join(claims)] if claims else []
        parts += [
            "Mean over seeds ± its standard error. Differences are taken seed by seed; *above* and "
            "*below* where they are more than two standard errors from 0, else *within*.",
            markdown_table(header, rows),
            f"{len(runs)} runs, {seconds:,.0f} seconds, one thread each, {versions()}.",
            "Bands are one standard error over seeds.",
            *(f"![{part}]({part})" if part.endswith(".png") else part for part in figures),
        ]
    else:
        parts += ["No run yet."]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"
