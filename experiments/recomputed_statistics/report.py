"""The report: the claims, two tables and a picture."""

import numpy as np
from matplotlib.figure import Figure

from experiments.drift.protocol import CORRUPTIONS
from experiments.recomputed_statistics.protocol import (
    AVERAGED_EPOCHS,
    BATCH,
    COUNTS,
    EMA_MOMENTUM,
    LEARNING_RATE,
    MOST_APART,
    PROTOCOL,
    SEEDS,
    SEVERITIES,
    STATISTICS,
    WEIGHTS,
)
from experiments.reports import (
    by_seed,
    claim,
    command_line,
    markdown_table,
    mean_and_error,
    plot_band,
    print_table,
    save_figure,
    versions,
    with_error,
    write_page,
)

KEY = ("cifar10",)
WORST = max(SEVERITIES)
# Of the table of corrupted images.
COLUMNS = {
    "kept": "as training left them",
    "training": "of training images",
    "recomputed": "of corrupted images",
    "sequential": "of corrupted images, sequential",
}


def report(content, out, console):
    runs = list(by_seed(content["runs"], [KEY]).get(KEY, {}).values())
    if runs:
        plot_counts(runs, content["size"], out / "recomputed_statistics_images.png")
        print_table(console, "Averaged weights, in %", *averages(runs), left=1)
        print_table(console, "Corrupted images, in %", *corruptions(runs), left=2)
    write_page(out / "recomputed_statistics.md", *page_of(content), console)


def page_of(content):
    """Title, command, protocol and results of the page."""
    size = content["size"]
    command = command_line("recomputed_statistics", "cifar10_jpeg.npz", **size)
    runs = list(by_seed(content["runs"], [KEY]).get(KEY, {}).values())
    return "Recomputed statistics", command, protocol(size), results(runs)


def protocol(size):
    return PROTOCOL.format(
        **size,
        steps=size["images"] // BATCH,
        batch=BATCH,
        learning_rate=LEARNING_RATE,
        averaged=AVERAGED_EPOCHS,
        ema=EMA_MOMENTUM,
        apart=MOST_APART,
        seeds=", ".join(map(str, SEEDS)),
        severities=", ".join(map(str, SEVERITIES)),
        counts=", ".join(map(str, COUNTS)),
    )


def results(runs):
    if not runs:
        return ["No run yet."]
    seconds = sum(run["seconds"] for run in runs)
    return [
        "\n".join(claims(runs)),
        "Accuracies are in percent, differences in points, taken seed by seed: the mean over "
        f"{len(runs)} seeds ± its standard error.",
        "### Averaged weights",
        markdown_table(*averages(runs), left=1),
        "The last column is how far recomputing in one pass moves the statistics, the mean over "
        "layers: of the mean and of the standard deviation, in old standard deviations.",
        "### Corrupted images",
        markdown_table(*corruptions(runs), left=2),
        "The gain is that of corrupted images over training images, both recomputed.",
        f"On images that are not corrupted, statistics of the first half of the test images leave "
        f"{with_error([run['clean'] for run in runs], '.1')} %, against "
        f"{with_error(values(runs, 'averaged', 'last', 'recomputed'), '.1')} % with those of the "
        "training images.",
        "![Accuracy against the number of images](recomputed_statistics_images.png)",
        f"Severity {WORST}, recomputed in one pass. A band is one standard error over seeds.",
        f"{len(runs)} runs, {seconds:,.0f} seconds in all, while other work ran; {versions()}.",
    ]


def values(runs, *path):
    """What each run has there."""
    found = []
    for run in runs:
        for name in path:
            run = run[name]
        found.append(run)
    return found


def less(runs, part, case, name, other):
    """Differences in points, seed by seed."""
    ours, theirs = (values(runs, part, case, n) for n in (name, other))
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def claims(runs):
    def shown(differences):
        return f"{with_error(differences, '+.2')} points"

    for name in ("swa", "ema"):
        gain = less(runs, "averaged", name, "recomputed", "kept")
        sentence = f"recomputed statistics are above those of training, weights {WEIGHTS[name]}"
        yield claim(sentence, is_above(gain), shown(gain))
    for name in ("swa", "ema"):
        apart = less(runs, "averaged", name, "sequential", "recomputed")
        sentence = (
            f"`sequential` is at most {MOST_APART:g} points from one pass, weights {WEIGHTS[name]}"
        )
        yield claim(sentence, abs(np.mean(apart)) <= MOST_APART, shown(apart))
    for kind in CORRUPTIONS:
        gain = less(runs, "corrupted", f"{kind} {WORST}", "recomputed", "kept")
        sentence = f"recomputed statistics are above those of training, {kind} of severity {WORST}"
        yield claim(sentence, is_above(gain), shown(gain))
    for kind in CORRUPTIONS:
        gain = less(runs, "corrupted", f"{kind} {WORST}", "recomputed", "training")
        sentence = (
            f"they are above those recomputed from training images, {kind} of severity {WORST}"
        )
        yield claim(sentence, is_above(gain), shown(gain))
    for name, title in (
        ("kept", "those of training"),
        ("recomputed", "those recomputed from training images"),
    ):
        lost = [run["clean"] - run["averaged"]["last"][name] for run in runs]
        sentence = (
            "on images that are not corrupted, statistics of test images are at most "
            f"{MOST_APART:g} points below {title}"
        )
        yield claim(sentence, np.mean(lost) >= -MOST_APART, shown(lost))


def is_above(differences):
    """Whether they are above 0 in the mean, and whether that may be chance."""
    mean, error = mean_and_error(differences)
    return "holds in the mean only" if 0 < mean <= 2 * error else bool(mean > 0)


def averages(runs):
    """Header and rows."""
    rows = []
    for name, title in WEIGHTS.items():
        cells = [
            with_error(values(runs, "averaged", name, kind), ".1")
            if kind in runs[0]["averaged"][name]
            else ""
            for kind in STATISTICS
        ]
        rows.append([title, *cells, moved(values(runs, "shift", name))])
    return ["weights", *STATISTICS.values(), "moved by"], rows


def corruptions(runs):
    """Header and rows."""
    rows = []
    for case in runs[0]["corrupted"]:
        of = values(runs, "corrupted", case)
        cells = [
            with_error([run[kind] for run in of], ".1") if kind in of[0] else "" for kind in COLUMNS
        ]
        gain = with_error(less(runs, "corrupted", case, "recomputed", "training"), "+.1")
        rows.append([*case.split(), *cells, gain, moved([run["shift"] for run in of])])
    return ["images", "severity", *COLUMNS.values(), "gain", "moved by"], rows


def moved(shifts):
    mean, stddev = np.mean(shifts, axis=0)
    return f"{mean:.2f}, {stddev:.2f}"


def plot_counts(runs, size, path):
    """Accuracy against the number of images, a panel for each corruption."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(CORRUPTIONS), sharey=True)
    for panel, kind in zip(panels, CORRUPTIONS, strict=True):
        of = values(runs, "corrupted", f"{kind} {WORST}")
        counts = [n for n in COUNTS if str(n) in of[0]]
        recomputed = [[run[str(n)] for n in counts] + [run["recomputed"]] for run in of]
        x = np.array([*counts, size["test_images"] // 2])
        label = "recomputed from so many images"
        plot_band(panel, x, np.array(recomputed), "tab:blue", marker="o", label=label)
        levels = {
            "images not corrupted": (values(runs, "averaged", "last", "recomputed"), "tab:gray"),
            "recomputed from training images": ([run["training"] for run in of], "tab:orange"),
            "as training left them": ([run["kept"] for run in of], "tab:red"),
        }
        for title, (level, color) in levels.items():
            level = np.repeat(np.array(level)[:, np.newaxis], len(x), axis=1)
            plot_band(panel, x, level, color, linestyle="--", label=title)
        panel.set(title=f"{kind}, severity {WORST}", xscale="log", xlabel="images")
        panel.set_xticks(x, [f"{n}" for n in x])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy, %")
    lines = panels[0].get_lines()
    names = [line.get_label() for line in lines]
    figure.legend(lines, names, loc="outside upper center", ncols=len(lines), frameon=False)
    save_figure(figure, path)
