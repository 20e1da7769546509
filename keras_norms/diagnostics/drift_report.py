"""A picture and a page of a `Drift`: heat map over layers and channels, and trajectories."""

import base64
import html
import io
import pathlib
import re

import numpy as np

from keras_norms.files import write_whole
from keras_norms.printable import printable

SHOWN_LAYERS = 8  # As many trajectories as can be told apart by colour.
SHOWN_CHANNELS = 50
SHOWN_LABELS = 70  # More would run into each other.
LONGEST_NAME = 28  # In the picture. The page has them whole.


def write_report(drift, folder, title):
    """Writes `drift.png` and `drift.html`, which needs no other file, and returns their paths.

    Args:
        drift: a `Drift`.
        folder: created if it does not exist.
        title: of the page.

    Raises:
        ImportError: without matplotlib.
    """
    picture = figure(drift, title)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "drift.png", folder / "drift.html"
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{printable(path)} is a folder, not a file.")
    for path, content in zip(paths, (picture, page(drift, picture, title).encode()), strict=True):
        write_whole(path, content)
    return paths


def figure(drift, title):
    """The PNG, as bytes."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A drift report needs matplotlib: pip install matplotlib.") from error
    layers = list(drift.by_channel)
    height = 1.2 + 0.28 * len(layers)
    canvas = Figure(figsize=(11, min(max(height, 2.4), 12) + 3.6), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(_literal(title))
    top, bottom = canvas.subplots(
        2, 1, gridspec_kw={"height_ratios": [min(max(height, 2.4), 12), 3.2]}
    )
    cells = np.full((len(layers), max(map(len, drift.by_channel.values()))), np.nan)
    for row, values in zip(cells, drift.by_channel.values(), strict=True):
        row[: len(values)] = values
    # From a hundredth of the threshold to a hundred times as much: the threshold is in the middle.
    middle = max(drift.threshold, 1e-6)
    limits = LogNorm(middle / 100, middle * 100)
    shown = np.clip(cells, limits.vmin, limits.vmax)
    image = top.imshow(shown, norm=limits, cmap="RdYlBu_r", aspect="auto", interpolation="nearest")
    top.set_facecolor("0.85")
    labels = short_labels(layers)
    step = -(-len(layers) // SHOWN_LABELS)
    top.set_yticks(range(0, len(layers), step), list(labels.values())[::step], fontsize=8)
    top.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    top.set_xlabel("channel" + " (grey: the layer has no more)" * bool(np.isnan(cells).any()))
    top.set_title(f"{drift.measure} by layer and channel, over all data", fontsize=10)
    bar = canvas.colorbar(image, ax=top, extend="both", pad=0.01)
    bar.ax.axhline(middle, color="black", linewidth=1.5)
    _draw_trajectories(bottom, drift, labels)
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _draw_trajectories(axes, drift, labels):
    worst = sorted(drift.by_batch, key=lambda name: -np.max(drift.by_batch[name]))[:SHOWN_LAYERS]
    is_finite = True
    for name, values in drift.by_batch.items():
        finite = np.where(np.isfinite(values), values, np.nan)
        batches = np.arange(1, len(values) + 1)
        if name in worst:
            axes.plot(batches, finite, marker=".", linewidth=1.2, label=labels[name])
        else:
            axes.plot(batches, finite, color="0.8", linewidth=0.8, zorder=1)
        for batch in batches[~np.isfinite(values)]:
            axes.axvline(batch, color="red", linewidth=1)
            is_finite = False
    axes.axhline(drift.threshold, color="black", linestyle="--", linewidth=1, label="threshold")
    axes.set_yscale("log")
    # As in the heat map: differences far below the threshold do not matter.
    middle = max(drift.threshold, 1e-6)
    axes.set_ylim(middle / 100, max(axes.get_ylim()[1], 4 * middle))
    axes.set_xlim(0.5, max(map(len, drift.by_batch.values())) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlabel("batch of the live data, from 1" + " (red line: not finite)" * (not is_finite))
    axes.set_title(f"{drift.measure} of each batch, average over channels", fontsize=10)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=5)


def short_labels(names):
    """`{name: label}`; of long names without the words that all have in common at both ends."""
    names = list(names)
    short = list(map(printable, names))
    if len(short) > 1 and max(map(len, short)) > LONGEST_NAME:
        words = [re.findall(r"[^_/]*[_/]?", name)[:-1] for name in short]
        most = min(map(len, words)) - 1  # A word is left of each.
        first = _count_common(words, most)
        last = _count_common([w[::-1] for w in words], most - first)
        short = [
            "…" * (first > 0) + "".join(w[first : len(w) - last]).strip("_/") + "…" * (last > 0)
            for w in words
        ]
    half = LONGEST_NAME // 2
    short = [s if len(s) <= LONGEST_NAME else f"{s[: half - 1]}…{s[-half:]}" for s in short]
    if len(set(short)) < len(short):
        short = [f"{i}: {s}" for i, s in enumerate(short)]
    # To matplotlib a line whose label begins with an underscore has none.
    short = [" " * s.startswith("_") + s for s in short]
    return {name: _literal(label) for name, label in zip(names, short, strict=True)}


def _count_common(words, most):
    """The number of leading words that all have in common, at most `most`."""
    count = 0
    while count < most and len({w[count] for w in words}) == 1:
        count += 1
    return count


def _literal(text):
    """For matplotlib, to which a dollar begins a formula."""
    return printable(text).replace("$", r"\$")


def page(drift, picture, title):
    """The HTML, with the picture in it."""
    rows = "\n".join(
        f"<tr{' class=bad' * (c.value > drift.threshold)}>"
        f"<td>{html.escape(printable(c.layer))}</td>"
        + "".join(f"<td>{value:.4g}</td>" for value in c[1:])
        + "</tr>"
        for c in drift.ranked(SHOWN_CHANNELS)
    )
    head = "".join(f"<th>{name}</th>" for name in columns(drift))
    count = f"{SHOWN_CHANNELS}" if drift.channels > SHOWN_CHANNELS else f"all {drift.channels}"
    image = base64.b64encode(picture).decode()
    title = html.escape(printable(title))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px sans-serif; margin: 2em; max-width: 1200px }}
img {{ width: 100% }}
table {{ border-collapse: collapse }}
td, th {{ padding: 2px 12px; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }}
.bad td {{ background: #fde4e1 }}
</style></head><body>
<h1>{title}</h1>
<p>{summary(drift)}</p>
<img alt="heat map and trajectories" src="data:image/png;base64,{image}">
<h2>Channels, {count}, those that differ most first</h2>
<table><tr>{head}</tr>
{rows}
</table></body></html>
"""


def columns(drift):
    """The headings of a table of channels."""
    measured = "live mean", "live stddev", "reference mean", "reference stddev"
    return "layer", "channel", drift.measure, *measured


def summary(drift):
    """Two sentences."""
    batch, value = drift.worst_batch
    return (
        f"{len(drift.drifted)} of {drift.channels} channels ({100 * drift.share:.3g} %) have a "
        f"{drift.measure} above {drift.threshold:g}; the average is {drift.average:.3g}. The batch "
        f"that drifted most is number {batch + 1}, with {value:.3g} in its worst layer."
    )
