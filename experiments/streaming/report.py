"""The table and the picture of second moments, and how much memory was held."""

import gc

import numpy as np
from matplotlib.figure import Figure

from experiments.reports import print_table, save_figure

BAND = (0.8, 1.25)
WINDOW = 100  # Images that E[z^2] is averaged over: a single one says little.
PART = 500  # Images between two pictures, and between two saved models.


def averaged(values):
    """The moving average over WINDOW values, from the first full window on."""
    sums = np.cumsum([0.0, *values])
    return (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW


def recovery(values, step_at):
    """The number of images until the means of WINDOW images are back in the band for good.

    For good is for the next 1000 images, or as many as there are. None if they do not come back.
    """
    after = averaged(values[step_at:])[:1000]
    outside = np.flatnonzero((after < BAND[0]) | (after > BAND[1]))
    last = int(outside[-1]) if len(outside) else -1
    return last + 1 + WINDOW if last + 1 < len(after) else None


def summarize(record, folder, console):
    header = ["layer", "E z² before", "right after", "at the end", "images to return"]
    rows, step_at = [], record["step_at"]
    for name, values in record["moments"].items():
        back = recovery(values, step_at)
        parts = values[max(step_at - WINDOW, 0) : step_at], values[step_at:][:10], values[-WINDOW:]
        means = [f"{np.mean(part):.2f}" if len(part) else "" for part in parts]
        rows.append([name, *means, "" if back is None else str(back)])
    print_table(console, None, header, rows, left=1)
    memory = {int(seen): size for seen, size in record["megabytes"].items()}
    first = min(memory, key=lambda seen: abs(seen - 1000))
    print(f"Most memory held: {memory[first]:.0f} MB by image {first}, ", end="")
    print(f"{max(memory.values()):.0f} MB by image {max(memory)}.")
    print(f"Picture: {folder / 'second_moments.png'}, model: {folder / 'stream.keras'}")


def plot(record, path):
    figure = Figure(figsize=(8, 6))
    moments, accuracy = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for name, values in record["moments"].items():
        means = averaged(values)
        places = np.unique(np.linspace(0, len(means) - 1, 1000, dtype=int))
        moments.plot(places + WINDOW, means[places], label=name, linewidth=1)
    moments.axhspan(*BAND, color="0.9", label=f"{BAND[0]} to {BAND[1]}")
    moments.set(yscale="log", ylabel=f"E z², mean of {WINDOW} images")
    moments.yaxis.set_major_formatter("{x:g}")
    moments.yaxis.set_minor_formatter("")
    moments.set_yticks([0.25, 0.5, 1, 2, 4, 8])
    moments.legend(title="layer", loc="upper right")
    seen = [int(images) for images in record["megabytes"]]
    accuracy.plot(seen, record["accuracy"], color="0.3")
    accuracy.set(ylabel=f"accuracy, last {PART} images", xlabel="images seen", ylim=(0, 1))
    for axes in (moments, accuracy):
        axes.axvline(record["step_at"], color="0.6", linestyle="--", linewidth=1)
    accuracy.annotate(
        "the camera changes", (record["step_at"], 0.85), (5, 0), textcoords="offset points"
    )
    figure.tight_layout()
    save_figure(figure, path)
    del figure, moments, accuracy, axes
    gc.collect()  # Figures are reference cycles, and would pile up until Python collects them.
