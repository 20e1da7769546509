"""The reports of the studies on texts: a table, curves, and the claims."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from experiments.reports import (
    by_seed,
    claim,
    command_line,
    compared,
    differences,
    last,
    markdown_table,
    mean_and_error,
    plot_band,
    print_table,
    save_figure,
    versions,
    with_error,
    write_page,
)

COLORS = {"LN": "tab:green", "BN": "tab:orange", "RBN": "tab:purple"}
ORDERS = {"pre": "Pre-Norm", "post": "Post-Norm"}
PAIRS = [(order, method) for order in ORDERS for method in COLORS]


@dataclasses.dataclass(frozen=True)
class Study:
    """What a report is about.

    Attributes:
        name: the study's package, and the stem of its files.
        title: the heading of the report.
        metric: the name in the runs; its value is a list over epochs, or one number at the end.
        label: of the metric, with its unit.
        scale: the factor from the runs to the label's unit.
        curves: `{label: (name in the runs, scale)}`, plotted against epochs.
        data: `--data` of the command line in the report.
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


def report(study, content, out, console):
    """Writes the report beside the results, and prints its table."""
    runs = by_seed(content["runs"], PAIRS)
    if runs:
        plot(runs, study.curves, out / f"{study.name}_curves.png")
        tids = {"mean TID": ("tid_mean", 1), "variance TID": ("tid_variance", 1)}
        plot(runs, tids, out / f"{study.name}_tid.png", "tid_steps")
    header, rows = table_of(runs, study)
    # Without the columns that do not fit into 80 characters; the report has them.
    narrow_header, *narrow = ([row[i] for i in (0, 1, 3, 4, 5)] for row in (header, *rows))
    print_table(console, "On the test sentences", narrow_header, narrow)
    write_page(out / f"{study.name}.md", *page_of(study, content), console)


def page_of(study, content):
    """Title, command, protocol and results of the page."""
    command = command_line(study.name, study.data, **content["size"])
    return study.title, command, study.protocol, results(study, content)


def results(study, content):
    runs, drift = by_seed(content["runs"], PAIRS), content["runs"].get("drift", {})
    if not runs:
        return ["No run yet."]
    trained = [run for run in content["runs"].values() if "seconds" in run]
    seconds = sum(run["seconds"] for run in trained)
    claimed = [*claims(runs), *drift_claims(drift)]
    pictures = [f"{study.name}_{kind}.png" for kind in ("curves", "tid")]
    return [
        *(["\n".join(claimed)] if claimed else []),
        "Mean over seeds ± its standard error. Differences are taken seed by seed; *above* and "
        "*below* where they are more than two standard errors from 0, else *within*.",
        markdown_table(*table_of(runs, study)),
        f"{len(trained)} runs, {seconds:,.0f} seconds, one thread each, {versions()}.",
        "Bands are one standard error over seeds.",
        *(f"![{picture}]({picture})" for picture in pictures),
        *drift_table(drift),
    ]


def table_of(runs, study):
    header = ["order", "method", "seeds", study.label, "less LN", "less BN"]
    header += ["mean TID", "variance TID", "seconds"]
    return header, [row_of(runs, pair, study) for pair in runs]


def row_of(runs, pair, study):
    of_pair, metric = runs[pair].values(), (study.metric, study.scale)
    cells = [with_error([last(run, *metric) for run in of_pair], ".1")]
    for other in ("LN", "BN"):
        values = differences(runs, pair, (pair[0], other), *metric)
        cells.append(compared(values) if values else "")
    for kind in ("final_tid_mean", "final_tid_variance"):
        values = [last(run, kind) for run in of_pair if kind in run]
        cells.append(with_error(values, ".4") if values else "")
    seconds = np.mean([run["seconds"] for run in of_pair])
    return [ORDERS[pair[0]], pair[1], f"{len(of_pair)}", *cells, f"{seconds:.0f}"]


def claims(runs):
    for order, title in ORDERS.items():
        for kind in ("mean", "variance"):
            values = differences(runs, (order, "RBN"), (order, "BN"), f"final_tid_{kind}")
            if values:
                mean, error = mean_and_error(values)
                holds = "one seed cannot say" if len(values) == 1 else mean < -2 * error
                sentence = f"{title}, {kind} TID of RBN below that of BN"
                yield claim(sentence, holds, with_error(values, "+.4"))


def drift_claims(drift):
    """`drift` is average psi, flagged share and accuracy by the share of lost words."""
    if drift:
        averages, clean = [found["average"] for found in drift.values()], next(iter(drift.values()))
        rises = sum(after > before for before, after in zip(averages, averages[1:], strict=False))
        steps = len(averages) - 1
        rising = "the average psi rises with each share of lost words"
        yield claim(rising, rises == steps, f"{rises} of {steps} steps")
        few = "clean halves have at most 1 % of channels above 0.25"
        yield claim(few, clean["flagged"] <= 0.01, f"{clean['flagged']:.1%}")


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
                marker = "o" if len(x) == 1 else None  # A line does not show a single point.
                handles[method] = plot_band(panel, x, values, color, marker=marker)
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
