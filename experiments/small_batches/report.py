"""The report: a table, curves, and the claims."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

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
from experiments.small_batches.protocol import (
    BATCH,
    COLORS,
    LEARNING_RATE,
    PILOT,
    PILOT_BATCHLESS,
    PILOT_TEST_IMAGES,
    PROTOCOL,
    SETTINGS,
    SLOW,
)

PAIRS = [(name, method) for name, setting in SETTINGS.items() for method in setting.methods]
ACCURACY = ("test_accuracy", 100)  # In percent.


def report(content, out, console):
    curves = by_seed(content["runs"], PAIRS)
    if curves:
        for metric, name in (("test_accuracy", "accuracy"), ("test_loss", "loss")):
            plot(curves, metric, out / f"small_batches_{name}.png")
    print_table(console, "On the test images, in %", *table_of(curves))
    write_page(out / "small_batches.md", *page_of(content), console)


def page_of(content):
    """Title, command, protocol and results of the page."""
    size, curves = content["size"], by_seed(content["runs"], PAIRS)
    names = ("images", "test_images", "epochs", "learning_rate", "momentum")
    options = {name: size[name] for name in names}
    command = command_line("small_batches", "cifar10_jpeg.npz", **options)
    return "Small batches", command, protocol(size), results(content, curves)


def protocol(size):
    return PROTOCOL.format(
        **size,
        steps=size["images"] // BATCH,
        batch=BATCH,
        first=BATCH,
        chosen=LEARNING_RATE,
        rates=", ".join(map(str, PILOT)),
        found=", ".join(map(str, PILOT.values())),
        pilot=f"{PILOT_TEST_IMAGES:,}",
        slow=SLOW,
        batchless=", ".join(
            f"{found} % with {rate} and {multiplier:g}"
            for (rate, multiplier), found in PILOT_BATCHLESS.items()
        ),
    )


def results(content, curves):
    if not curves:
        return ["No run yet."]
    seconds = sum(run["seconds"] for run in content["runs"].values())
    absent = [f"{method} ({SETTINGS[s].title})" for s, method in PAIRS if (s, method) not in curves]
    header, rows = table_of(curves)
    titled = [[SETTINGS[name].title, *cells] for name, *cells in rows]
    claimed = list(claims(curves))
    return [
        *(["\n".join(claimed)] if claimed else []),
        "Accuracy in percent on the test images after the last epoch: mean over seeds ± its "
        "standard error. Differences are taken seed by seed, mean ± standard error; *above* "
        "and *below* where they are more than two standard errors from 0, else *within*.",
        markdown_table(header, titled),
        f"{len(content['runs'])} runs, {seconds:,.0f} seconds of training steps, one thread "
        f"each, {versions()}.",
        *([f"Not run: {', '.join(absent)}."] if absent else []),
        "![Test accuracy against epoch](small_batches_accuracy.png)",
        "![Test cross-entropy against epoch](small_batches_loss.png)",
        "Bands are one standard error over seeds. There is no loss where a training diverged.",
    ]


def table_of(curves):
    header = ["setting", "method", "seeds", "accuracy", "less BN, same setting"]
    header += ["less BN, all 64 images", "seconds"]
    rows = []
    for pair, of_pair in curves.items():
        same = differences(curves, pair, (pair[0], "BN"), *ACCURACY)
        whole = differences(curves, pair, ("whole", "BN"), *ACCURACY) if pair[0] != "whole" else []
        cells = [compared(values) if values else "" for values in (same, whole)]
        accuracy = with_error([last(run, *ACCURACY) for run in of_pair.values()], ".1")
        seconds = np.mean([run["seconds"] for run in of_pair.values()])
        rows.append([*pair, f"{len(of_pair)}", accuracy, *cells, f"{seconds:.0f}"])
    return header, rows


def claims(curves):
    for setting in ("groups-4", "groups-2", "groups-1", "by-label", "pairs"):
        values = differences(curves, (setting, "BRN"), (setting, "BN"), *ACCURACY)
        if len(values) > 1:
            mean, error = mean_and_error(values)
            found = f"{with_error(values, '+.2')} points, {mean / error:.1f} standard errors"
            yield claim(f"BRN is above BN, {SETTINGS[setting].title}", mean > 2 * error, found)
    for method in ("Batchless", "Batchless-slow"):
        values = differences(curves, ("batch-1", method), ("whole", "BN"), *ACCURACY)
        if len(values) > 1:
            sentence = "with a step per image is less than 3 points below BN over all 64 images"
            found = f"{with_error(values, '+.2')} points"
            yield claim(f"{method} {sentence}", np.mean(values) > -3, found)


def plot(curves, metric, path):
    names = [name for name in SETTINGS if any(pair[0] == name for pair in curves)]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 0.6 + 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles = {}
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    for panel, name in zip(panels.flat, names, strict=False):
        setting = SETTINGS[name]
        reference = curves.get(("whole", "BN"))
        if reference and name != "whole":
            mean = values_of(reference, metric).mean(0)
            (line,) = panel.plot(np.arange(1, 1 + len(mean)), mean, ":", color="black", lw=1.2)
            handles["BN over all 64 images"] = line
        for method in setting.methods:
            if (name, method) not in curves:
                continue
            values = values_of(curves[name, method], metric)
            epochs = np.arange(1, 1 + values.shape[1])
            handles[method] = plot_band(panel, epochs, values, COLORS[method])
        panel.set_title(setting.title, fontsize=10)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    unit = "test accuracy, %" if metric == "test_accuracy" else "test cross-entropy"
    if metric == "test_loss":
        panels[0, 0].set(yscale="log", ylim=(0.8, 12))  # The first epoch of some goes far beyond.
        panels[0, 0].yaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 5, 10]))
        panels[0, 0].yaxis.set_major_formatter("{x:g}")
        panels[0, 0].yaxis.set_minor_locator(NullLocator())
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    for panel in panels[:, 0]:
        panel.set_ylabel(unit)
    labels = [label for label in (*COLORS, "BN over all 64 images") if label in handles]
    lines = [handles[label] for label in labels]
    figure.legend(lines, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    save_figure(figure, path)


def values_of(of_pair, metric):
    """Seeds by epochs."""
    factor = 100 if metric == "test_accuracy" else 1
    return factor * np.array([run[metric] for run in of_pair.values()], float)
