"""The report of `small_batches.py`: a table, curves, and what they say of the claims."""

import collections

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
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
from small_batches_protocol import (
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


def report(content, out, console):
    curves = read_curves(content["runs"])
    if curves:
        for metric, name in (("test_accuracy", "accuracy"), ("test_loss", "loss")):
            plot(curves, metric, out / f"small_batches_{name}.png")
    header, rows = table_of(curves, content["runs"])
    print_table(console, "On the test images, in %", header, rows)
    path = out / "small_batches.md"
    text = markdown(content, header, rows, claims(curves), curves, reading(path))
    write(path, text)
    console.print(f"Report: {path}")


def read_curves(runs):
    """By setting and method, then by seed."""
    curves = collections.defaultdict(dict)
    for setting, method in pairs():
        for key, run in runs.items():
            if key.startswith(f"{setting}/{method}/"):
                curves[setting, method][int(key.rpartition("/")[2])] = run
    return dict(curves)


def pairs():
    return [(name, method) for name, setting in SETTINGS.items() for method in setting.methods]


def last(run):
    """Test accuracy in percent at the end."""
    return 100 * run["test_accuracy"][-1]


def differences(curves, pair, other):
    """Seed by seed, where both have run."""
    ours, theirs = curves.get(pair, {}), curves.get(other, {})
    return [last(ours[seed]) - last(theirs[seed]) for seed in ours if seed in theirs]


def table_of(curves, runs):
    header = ["setting", "method", "seeds", "accuracy", "less BN, same setting"]
    header += ["less BN, all 64 images", "seconds"]
    rows = []
    for pair, by_seed in curves.items():
        mean, error = mean_and_error([last(run) for run in by_seed.values()])
        cells = []
        for other in ((pair[0], "BN"), ("whole", "BN")):
            values = [] if other == pair else differences(curves, pair, other)
            cells.append(compared(values) if values else "")
        if pair[0] == "whole":
            cells[1] = ""
        accuracy = f"{mean:.1f}" if np.isnan(error) else f"{mean:.1f} ± {error:.1f}"
        seconds = np.mean([run["seconds"] for run in by_seed.values()])
        rows.append([*pair, f"{len(by_seed)}", accuracy, *cells, f"{seconds:.0f}"])
    return header, rows


def claims(curves):
    lines = []
    for setting in ("groups-4", "groups-2", "groups-1", "by-label", "pairs"):
        values = differences(curves, (setting, "BRN"), (setting, "BN"))
        if len(values) > 1:
            mean, error = mean_and_error(values)
            found = "holds" if mean > 2 * error else "does not hold"
            lines.append(
                f"* BRN is above BN, {SETTINGS[setting].title}: **{found}**, "
                f"{mean:+.2f} ± {error:.2f} points, {mean / error:.1f} standard errors."
            )
    for method in ("Batchless", "Batchless-slow"):
        values = differences(curves, ("batch-1", method), ("whole", "BN"))
        if len(values) > 1:
            mean, error = mean_and_error(values)
            found = "holds" if mean > -3 else "does not hold"
            lines.append(
                f"* {method} with a step per image is less than 3 points below BN over all 64 "
                f"images: **{found}**, {mean:+.2f} ± {error:.2f} points."
            )
    return lines


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
            (line,) = panel.plot(*band(reference, metric)[:2], ":", color="black", lw=1.2)
            handles["BN over all 64 images"] = line
        for method in setting.methods:
            if (name, method) not in curves:
                continue
            epochs, mean, error = band(curves[name, method], metric)
            (line,) = panel.plot(epochs, mean, color=COLORS[method], lw=1.6)
            panel.fill_between(epochs, mean - error, mean + error, color=COLORS[method], alpha=0.2)
            handles[method] = line
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


def band(by_seed, metric):
    """Epochs, mean over seeds and its standard error, 0 where there is one seed."""
    factor = 100 if metric == "test_accuracy" else 1
    values = factor * np.array([run[metric] for run in by_seed.values()], float)
    error = np.zeros(values.shape[1])
    if len(values) > 1:
        error = np.std(values, axis=0, ddof=1) / len(values) ** 0.5
    return np.arange(1, 1 + values.shape[1]), values.mean(0), error


def markdown(content, header, rows, claims, curves, kept):
    size = content["size"]
    numbers = dict(steps=size["images"] // BATCH, batch=BATCH, first=BATCH, chosen=LEARNING_RATE)
    protocol = PROTOCOL.format(
        **{**size, **numbers},
        rates=", ".join(map(str, PILOT)),
        found=", ".join(map(str, PILOT.values())),
        pilot=f"{PILOT_TEST_IMAGES:,}",
        slow=SLOW,
        batchless=", ".join(
            f"{found} % with {rate} and {multiplier:g}"
            for (rate, multiplier), found in PILOT_BATCHLESS.items()
        ),
    )
    command = " ".join(
        ["python examples/small_batches.py --data cifar10_jpeg.npz"]
        + [f"--{name.replace('_', '-')} {size[name]}" for name in ("images", "test_images")]
        + [f"--epochs {size['epochs']} --learning-rate {size['learning_rate']}"]
        + [f"--momentum {size['momentum']}"]
    )
    parts = ["# Small batches", f"    {command}", "## Protocol, written before the run", protocol]
    parts += ["## Results"]
    if not curves:
        parts += ["No run yet."]
    else:
        seconds = sum(run["seconds"] for run in content["runs"].values())
        absent = [f"{method} ({SETTINGS[s].title})" for s, method in pairs()]
        absent = [a for a, pair in zip(absent, pairs(), strict=True) if pair not in curves]
        titled = [[SETTINGS[name].title, *cells] for name, *cells in rows]
        parts += ["\n".join(claims)] if claims else []
        parts += [
            "Accuracy in percent on the test images after the last epoch: mean over seeds ± its "
            "standard error. Differences are taken seed by seed, mean ± standard error; *above* "
            "and *below* where they are more than two standard errors from 0, else *within*.",
            markdown_table(header, titled),
            f"{len(content['runs'])} runs, {seconds:,.0f} seconds of training steps, one thread "
            f"each, {versions()}.",
        ]
        parts += [f"Not run: {', '.join(absent)}."] if absent else []
        parts += ["![Test accuracy against epoch](small_batches_accuracy.png)"]
        parts += ["![Test cross-entropy against epoch](small_batches_loss.png)"]
        parts += [
            "Bands are one standard error over seeds. There is no loss where a training diverged."
        ]
    text = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    return text + (f"\n{kept}" if kept else "")
