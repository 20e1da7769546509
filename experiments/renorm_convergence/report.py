"""The report: what the pilot chose, accuracies, differences, and what may explain them."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.renorm_convergence.choosing import NO_RAMPS, chosen, trials
from experiments.renorm_convergence.protocol import (
    BATCH,
    FIRST_RATE,
    METHODS,
    MOMENTUM,
    PILOT_SETTING,
    PROTOCOL,
    RAMPS,
    RATES,
    SETTINGS,
    TRAINING_IMAGES,
)
from experiments.reports import (
    by_seed,
    claim,
    command_line,
    differences,
    interval,
    last,
    markdown_table,
    plot_band,
    print_table,
    save_figure,
    versions,
    with_deviation,
    with_interval,
    write_page,
)
from experiments.small_batches.protocol import BATCH as ARRANGED

PAIRS = [(name, method) for name, setting in SETTINGS.items() for method in setting.methods]
ACCURACY = ("test_accuracy", 100)  # In percent.
PICTURE = "renorm_convergence_curves.png"


def report(content, out, console):
    runs = by_seed(content["runs"], PAIRS)
    if runs:
        plot(runs, out / PICTURE)
    print_table(console, "On the test images, in %", *table_of(runs))
    write_page(out / "renorm_convergence.md", *page_of(content), console)


def page_of(content):
    """Title, command, protocol and results of the page."""
    size = content["size"]
    command = command_line("renorm_convergence", "cifar10_jpeg.npz", **size)
    return "Batch Renormalization near convergence", command, protocol(size), results(content)


def protocol(size):
    steps = size["images"] // ARRANGED * ARRANGED // BATCH
    return PROTOCOL.format(
        **size,
        steps=steps,
        total=steps * size["epochs"],
        batch=BATCH,
        momentum=MOMENTUM,
        rates=", ".join(map(str, RATES)),
        first_rate=FIRST_RATE,
        training_images=TRAINING_IMAGES,
    )


def results(content):
    runs = by_seed(content["runs"], PAIRS)
    claimed = list(claims(runs))
    parts = ["\n".join(claimed)] if claimed else []
    if not runs:
        parts.append("No run yet.")
    else:
        parts += [
            "Accuracy in percent on the test images after the last epoch: mean over seeds ± "
            "standard deviation. Differences are in points, seed by seed, then their mean and its "
            "95 % interval.",
            markdown_table(*table_of(runs)),
            f"![Test accuracy, training loss and clipping by epoch]({PICTURE})",
            "Bands are one standard error over seeds.",
            "### Training and inference",
            "Means over seeds after the last epoch. Loss on training images: in their groups "
            "during the last epoch, and in inference. Test images in inference, and in groups as "
            "in training. TID: of mean and standard deviation, the mean over layers. Clipped: the "
            "share of channels in the last epoch.",
            markdown_table(*explanations(runs)),
        ]
    if any(trials(content["runs"], *pair) for pair in PAIRS):
        parts += [
            "### Pilot",
            "Accuracy in percent on the held-out training images by learning rate; what was "
            "chosen for all runs is bold.",
            markdown_table(*pilot_table(content["runs"]), left=3),
        ]
    counted = [run["steps"] for run in content["runs"].values()]
    parts.append(f"{len(counted)} runs, {sum(counted):,} steps with the pilot, {versions()}.")
    return parts


def gain(runs, setting):
    """Points of BRN above BN, seed by seed."""
    return differences(runs, (setting, "BRN"), (setting, "BN"), *ACCURACY)


def claims(runs):
    for name, setting in SETTINGS.items():
        values = gain(runs, name)
        if len(values) > 1:
            mean, half = interval(values)
            verdict = "holds" if mean > half else "refuted" if mean < -half else "open"
            found = f"{with_interval(values)} points"
            yield claim(f"BRN is above BN, {setting.title}", verdict, found)


def table_of(runs):
    header = ["setting", "method", "rate", "ramps", "seeds", "accuracy", "less BN, each seed"]
    header += ["less BN, mean"]
    rows = []
    for (name, method), of_pair in runs.items():
        values = gain(runs, name) if method == "BRN" else []
        one = next(iter(of_pair.values()))
        rows.append(
            [
                SETTINGS[name].title,
                method,
                f"{one['rate']:g}",
                "" if one["ramps"] == NO_RAMPS else one["ramps"],
                f"{len(of_pair)}",
                with_deviation([last(run, *ACCURACY) for run in of_pair.values()]),
                ", ".join(f"{value:+.2f}" for value in values),
                with_interval(values),
            ]
        )
    return header, rows


EXPLANATIONS = {
    "loss, groups": ("train_loss", 1, ".3f"),
    "loss, inference": ("train_inference_loss", 1, ".3f"),
    "test loss": ("test_loss", 1, ".3f"),
    "test loss, groups": ("batch_loss", 1, ".3f"),
    "test accuracy": ("test_accuracy", 100, ".1f"),
    "test accuracy, groups": ("batch_accuracy", 100, ".1f"),
    "TID, mean": ("mean_tid", 1, ".2f"),
    "TID, stddev": ("variance_tid", 1, ".2f"),
    "r clipped, %": ("r_clipped", 100, ".2f"),
    "d clipped, %": ("d_clipped", 100, ".2f"),
}


def explanations(runs):
    rows = []
    for (name, method), of_pair in runs.items():
        row = [SETTINGS[name].title, method]
        for metric, scale, digits in EXPLANATIONS.values():
            values = [last(run, metric, scale) for run in of_pair.values() if metric in run]
            row.append(f"{np.mean(values):{digits}}" if values else "")
        rows.append(row)
    return ["setting", "method", *EXPLANATIONS], rows


def pilot_table(runs):
    found = {pair: trials(runs, *pair) for pair in PAIRS}
    rates = sorted({rate for of_pair in found.values() for _, rate in of_pair})
    rows = []
    for (name, method), of_pair in found.items():
        for ramps in (NO_RAMPS, *RAMPS):
            cells = [of_pair.get((ramps, rate)) for rate in rates]
            if any(cells):
                best = [
                    name == PILOT_SETTING and (ramps, rate) == chosen(runs, name, method)
                    for rate in rates
                ]
                shown = [
                    "" if cell is None else f"**{cell:.1f}**" if is_best else f"{cell:.1f}"
                    for cell, is_best in zip(cells, best, strict=True)
                ]
                title = "" if ramps == NO_RAMPS else ramps
                rows.append([SETTINGS[name].title, method, title, *shown])
    return ["setting", "method", "ramps", *map(str, rates)], rows


def plot(runs, path):
    """Columns are settings; rows are test accuracy, training loss and what BRN clips."""
    names = [name for name in SETTINGS if any(pair[0] == name for pair in runs)]
    figure = Figure(figsize=(4 * len(names), 7.5), layout="constrained")
    panels = figure.subplots(3, len(names), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(names):
        panels[0, column].set_title(SETTINGS[name].title, fontsize=10)
        for method, color in METHODS.items():
            of_pair = runs.get((name, method))
            if not of_pair:
                continue
            draw(panels[0, column], of_pair, *ACCURACY, color, label=method)
            draw(panels[1, column], of_pair, "train_loss", 1, color)
            if method == "BRN":
                draw(panels[2, column], of_pair, "r_clipped", 100, "tab:green", label="r")
                draw(panels[2, column], of_pair, "d_clipped", 100, "tab:purple", label="d")
    rows = zip(panels, ("test accuracy, %", "training loss", "channels clipped, %"), strict=True)
    for row, label in rows:
        row[0].set_ylabel(label)
    panels[0, 0].legend(frameon=False)
    if panels[2, 0].lines:
        panels[2, 0].legend(frameon=False)
    for panel in panels.flat:
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    save_figure(figure, path)


def draw(panel, of_pair, metric, scale, color, **line):
    values = scale * np.array([run[metric] for run in of_pair.values()], float)
    plot_band(panel, np.arange(1, 1 + values.shape[1]), values, color, **line)
