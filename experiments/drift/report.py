"""The report: the claims, tables and curves."""

import numpy as np
from matplotlib.figure import Figure

from experiments.drift.protocol import (
    ADDED,
    BATCH,
    CLIPNORM,
    CORRUPTIONS,
    FACTOR,
    LEARNING_RATE,
    MAX_UPDATE,
    MOST_FLAGGED,
    MOST_MOVED,
    PICTURED,
    POISON,
    POISONED_SHARE,
    PROTOCOL,
    RATES,
    SEED,
    STREAMS,
)
from experiments.reports import (
    claim,
    command_line,
    markdown_table,
    print_table,
    save_figure,
    versions,
    with_error,
    write_page,
)

CLEAN, UNBOUNDED, *BOUNDED = STREAMS


def report(found, out, console):
    plot_severities(found, out / "drift_severity.png")
    plot_streams(found["poisoned"], out / "drift_poisoning.png")
    rows = [[claim, value, "yes" if holds else "no"] for claim, value, holds in claims(found)]
    print_table(console, "Drift", ["to be shown", "is", "holds"], rows, left=3)
    write_page(out / "drift.md", *page_of(found), console)


def page_of(found):
    """Title, command, protocol and results of the page."""
    options = dict(found["size"])
    options["seeds"] = options.pop("seeds")  # At the end.
    command = command_line("drift", "cifar10_jpeg.npz", **options)
    return "Drift", command, protocol(found["size"]), results(found)


def claims(found):
    """Yields what was to be shown, what was found, and whether it holds."""
    clean, scaled = found["clean"], found["scaled"]
    first = sum(one["rank"] == 1 for one in scaled)
    yield (
        f"clean halves: at most {100 * MOST_FLAGGED:g} % of the channels above 0.25",
        f"{100 * clean['share']:.1f} % of {clean['channels']}",
        clean["share"] <= MOST_FLAGGED,
    )
    yield (
        f"a channel scaled by {FACTOR:g} has rank 1 of all channels",
        f"{first} of {len(scaled)}",
        first == len(scaled),
    )
    for kind, cases in found["corrupted"].items():
        averages = [clean["average"], *(case["average"] for case in cases)]
        rising = sum(low < high for low, high in zip(averages, averages[1:], strict=False))
        yield (
            f"{kind}: the average psi rises with each severity",
            f"{rising} of {len(cases)} steps",
            rising == len(cases),
        )
    for name in BOUNDED:
        for mode, versus in zip(RATES, ("before", CLEAN), strict=True):
            values = moves(found["poisoned"], mode, name, versus)
            other = "from before" if versus == "before" else "from the clean stream"
            yield (
                f"1 % {name}, {mode}: less than {MOST_MOVED:g} point {other}",
                with_error(values, "+.2"),
                abs(np.mean(values)) < MOST_MOVED,
            )


# The streams, seed by seed.


def runs_of(runs, mode, name):
    """`{seed: accuracies}`."""
    wanted = [run for run in runs if (run["mode"], run["stream"]) == (mode, name)]
    return {run["seed"]: [accuracy for _, accuracy in run["accuracy"]] for run in wanted}


def moves(runs, mode, name, versus="before"):
    """Points from the accuracy before, or at the end of another stream, to that at the end."""
    ours = runs_of(runs, mode, name)
    if versus == "before":
        return [values[-1] - values[0] for values in ours.values()]
    others = runs_of(runs, mode, versus)
    return [values[-1] - others[seed][-1] for seed, values in ours.items()]


def falls(runs, mode, name):
    """Points from the accuracy before to the lowest on the way."""
    return [min(values) - values[0] for values in runs_of(runs, mode, name).values()]


def stream_rows(runs):
    for mode in RATES:
        for name in STREAMS:
            to_clean = "" if name == CLEAN else with_error(moves(runs, mode, name, CLEAN), "+.2")
            worst = max(moves(runs, mode, name), key=abs)
            yield [
                mode,
                name,
                with_error(moves(runs, mode, name), "+.2"),
                f"{worst:+.2f}",
                to_clean,
                with_error(falls(runs, mode, name), "+.2"),
            ]


# The pictures.


def plot_severities(found, path):
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    panels = figure.subplots(2, len(CORRUPTIONS), sharex=True, sharey="row")
    for (top, bottom), (kind, cases) in zip(panels.T, found["corrupted"].items(), strict=True):
        cases = [found["clean"], *cases]
        top.plot([case["average"] for case in cases], marker="o", color="tab:blue")
        top.axhline(0.25, color="black", linestyle="--", linewidth=1)
        top.set(title=kind, yscale="log")
        bottom.plot([case["accuracy"] for case in cases], marker="o", color="tab:orange")
        bottom.plot([100 * case["share"] for case in cases], marker="s", color="tab:blue")
        bottom.set(xlabel="severity (0: clean)", ylim=(0, 100))
    panels[0, 0].set_ylabel("psi, average over channels")
    panels[1, 0].set_ylabel("%")
    panels[0, 0].text(0, 0.27, "threshold of a channel", fontsize=8, va="bottom")
    panels[1, 0].legend(["test accuracy", "channels above the threshold"], fontsize=8)
    save(figure, panels, path)


def plot_streams(runs, path):
    """A panel for each bound. The stream without a bound falls out of the panels."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(len(RATES), len(BOUNDED), sharex=True, sharey=True)
    shown = [a for r in runs if r["stream"] != UNBOUNDED for _, a in r["accuracy"]]
    for row, mode in zip(panels, RATES, strict=True):
        for panel, bounded in zip(row, BOUNDED, strict=True):
            for name, color in ((CLEAN, "tab:gray"), (UNBOUNDED, "tab:red"), (bounded, "tab:blue")):
                for run in runs:
                    if (run["mode"], run["stream"]) == (mode, name):
                        points = np.transpose(run["accuracy"])
                        panel.plot(*points, ".-", color=color, linewidth=1.2, alpha=0.8)
            panel.set_ylim(min(shown) - 1, max(shown) + 1)
            panel.set_title(f"{mode}, {bounded.split('`')[1]}", fontsize=10)
        row[0].set_ylabel("test accuracy, %")
    for panel in panels[-1]:
        panel.set_xlabel("batches of the stream")
    lines = [panels[0, 0].get_lines()[i * len(panels[0, 0].get_lines()) // 3] for i in range(3)]
    labels = [CLEAN, UNBOUNDED, "poisoned, with the bound"]
    figure.legend(lines, labels, loc="outside upper center", ncols=3, frameon=False)
    save(figure, panels, path)


def save(figure, panels, path):
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    save_figure(figure, path)


# The page.


def results(found):
    threads = found["size"]["threads"]
    return [
        "\n".join(claim(shown, holds, value) for shown, value, holds in claims(found)),
        "Moved accuracies are in points, mean over seeds ± its standard error.",
        *clean_and_scaled(found),
        "### Corruptions",
        markdown_table(
            ["images", "severity", "average psi", "channels above 0.25", "accuracy"],
            list(severity_rows(found)),
            left=1,
        ),
        "Over all corruptions and severities, the rank correlation of the average psi and the "
        f"accuracy is {rank_correlation(found):+.2f}.",
        "![Average psi, flagged channels and accuracy against severity](drift_severity.png)",
        "### The picture of a report",
        f"Of {PICTURED} batches, number {PICTURED // 4 + 1} is noise, and contrast is low from "
        f"number {PICTURED // 2 + 1} on.",
        "![Heat map over layers and channels, and trajectories over batches](drift_report.png)",
        "### Poisoning",
        markdown_table(
            [
                "",
                "stream",
                "end less before",
                "the furthest seed",
                "end less clean",
                "lowest less before",
            ],
            list(stream_rows(found["poisoned"])),
        ),
        "![Accuracy along the streams](drift_poisoning.png)",
        "A line for each seed. Without a bound it falls out of the picture.",
        f"{found['seconds']:,} seconds in all with {threads} thread"
        f"{'s' * (threads > 1)}, while other work ran; {versions()}.",
    ]


def protocol(size):
    def listed(values):
        return ", ".join(f"{value:g}" for value in values)

    return PROTOCOL.format(
        **{**size, "seeds": listed(size["seeds"])},
        **{kind: listed(values) for kind, values in CORRUPTIONS.items()},
        steps=size["images"] // BATCH,
        batch=BATCH,
        seed=SEED,
        learning_rate=LEARNING_RATE,
        factor=FACTOR,
        pictured=PICTURED,
        poisoned=max(1, round(POISONED_SHARE * size["stream"])),
        poison=POISON,
        max_update=MAX_UPDATE,
        added=" and ".join(f"{bound:g}" for bound in ADDED),
        rate=RATES["training"],
        clipnorm=CLIPNORM,
    )


def clean_and_scaled(found):
    clean, scaled = found["clean"], found["scaled"]
    yield (
        f"The model has {clean['accuracy']:.1f} % on the live half. Clean halves: average psi "
        f"{clean['average']:.4f}, the largest {clean['worst']:.3f}."
    )
    own, others = [one["value"] for one in scaled], [one["other"][2] for one in scaled]
    shares = [100 * one["share"] for one in scaled]
    yield (
        f"Scaled channels: of {len(scaled)}, {sum(o['rank_in_layer'] == 1 for o in scaled)} have "
        f"rank 1 in their layer and {sum(o['rank'] == 1 for o in scaled)} rank 1 of all. Their psi "
        f"is {min(own):.1f} to {max(own):.1f}, the largest of the other channels {min(others):.1f} "
        f"to {max(others):.1f}; {min(shares):.1f} to {max(shares):.1f} % of all channels are above "
        "the threshold."
    )
    header = ["layer", "channel", "psi", "rank in layer", "rank of all", "channel of rank 1"]
    rows = [
        [o["layer"], f"{o['channel']}", f"{o['value']:.1f}", f"{o['rank_in_layer']}"]
        + [f"{o['rank']}", f"{o['other'][0]} {o['other'][1]} ({o['other'][2]:.1f})"]
        for o in scaled
        if o["rank"] > 1
    ]
    if rows:
        yield "Those that are not the first of all:"
        yield markdown_table(header, rows, left=1)


def severity_rows(found):
    for kind, cases in {"clean": [found["clean"]], **found["corrupted"]}.items():
        for severity, case in enumerate(cases, kind != "clean"):
            yield [
                kind,
                f"{severity}" if kind != "clean" else "",
                f"{case['average']:.4f}",
                f"{100 * case['share']:.1f} %",
                f"{case['accuracy']:.1f}",
            ]


def rank_correlation(found):
    cases = [case for cases in found["corrupted"].values() for case in cases]
    ranks = [
        np.argsort(np.argsort([case[name] for case in cases])) for name in ("average", "accuracy")
    ]
    return np.corrcoef(*ranks)[0, 1]
