"""The report: tables, accuracy by epoch, and differences to batch normalization."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.range_norms.contenders import CONTENDERS, HOMOGENEOUS, MIXED
from experiments.range_norms.protocol import (
    BAND,
    BATCH,
    CLASSES,
    CLASSES_IN_A_BATCH,
    DATA_SETS,
    DIGITS,
    LEARNING_RATE,
    LIMIT,
    MOMENTUM,
    PILOT,
    PILOT_NONE,
    PILOT_SEED,
    PILOT_TEST_IMAGES,
    PROTOCOL,
    SEEDS,
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

KEYS = [
    (data, batches, name)
    for data in DATA_SETS
    for batches in (MIXED, HOMOGENEOUS)
    for name, contender in CONTENDERS.items()
    if batches in contender.batches
]
ACCURACY = ("test_accuracy", 100)  # In percent.
FAMILIES = {
    "ranges": lambda name: name.startswith("range"),
    "LightNorm": lambda name: name.startswith("light"),
    "one part": lambda name: name.startswith("only") or name == "range_lightnorm",
    "adaptive": lambda name: name.startswith("adaptive") or name in ("none", "batch_after_relu"),
}


def report(content, out, console):
    runs = by_seed(content["runs"], KEYS)
    for data in data_sets(runs):
        plot_accuracy(runs, data, out / f"range_norms_{data}_accuracy.png")
        plot_differences(runs, data, out / f"range_norms_{data}_differences.png")
        print_table(console, f"{DATA_SETS[data].title}, in %", *table_of(runs, data))
    write_page(out / "range_norms.md", *page_of(content), console)


def page_of(content):
    """Title, command, protocol and results of the page."""
    size = content["size"]
    names = ("images", "test_images", "epochs", "digits_epochs")
    options = {name: size[name] for name in names}
    command = command_line("range_norms", "cifar10_jpeg.npz", **options)
    title = "Ranges, narrow numbers and gates"
    return title, command, protocol(size), results(by_seed(content["runs"], KEYS))


def protocol(size):
    stages = {
        f"{name}_stages": ", ".join(
            f"{channels} channels" + (f" with stride {stride}" if stride > 1 else "")
            for channels, stride in data_set.stages
        )
        for name, data_set in DATA_SETS.items()
    }
    found, found_none = (
        ", ".join(f"{accuracy} % with {rate}" for rate, accuracy in pilot.items())
        for pilot in (PILOT, PILOT_NONE)
    )
    per_set = list(DATA_SETS.values())
    return PROTOCOL.format(
        **size,
        **stages,
        digit_images=DIGITS["images"],
        digit_test_images=DIGITS["test_images"],
        batch=BATCH,
        classes=CLASSES,
        classes_in_a_batch=CLASSES_IN_A_BATCH,
        learning_rate=LEARNING_RATE,
        pilot_seed=PILOT_SEED,
        pilot_test_images=PILOT_TEST_IMAGES,
        found=found,
        found_none=found_none,
        momentum=MOMENTUM,
        band=BAND,
        narrow=" and ".join(f"{one.narrow_band} for {one.title}" for one in per_set),
        shares=" and ".join(f"{one.open_share} %" for one in per_set),
        seeds=", ".join(map(str, SEEDS)),
        limit=LIMIT,
    )


def results(runs):
    if not runs:
        return ["No run yet."]
    claimed = list(claims(runs))
    parts = ["\n".join(claimed)] if claimed else []
    parts += [
        "Accuracy in percent on the test images after the last epoch: mean over seeds ± standard "
        "deviation. Differences are in points, taken seed by seed: their mean and its 95 % "
        "interval."
    ]
    for data in data_sets(runs):
        picture = f"range_norms_{data}"
        parts += [
            f"### {DATA_SETS[data].title[0].upper()}{DATA_SETS[data].title[1:]}",
            markdown_table(*table_of(runs, data)),
            f"![Test accuracy by epoch]({picture}_accuracy.png)",
            f"![Differences to batch normalization]({picture}_differences.png)",
        ]
    parts.append("Bands are one standard error over seeds, bars 95 % intervals.")
    finished = [run for of_key in runs.values() for run in of_key.values()]
    seconds = sum(run["seconds"] for run in finished)
    parts.append(f"{len(finished)} runs, {seconds:,.0f} seconds of training steps, {versions()}.")
    absent = [" ".join(key) for key in KEYS if key not in runs]
    return parts + ([f"Not run: {', '.join(absent)}."] if absent else [])


def data_sets(runs):
    return [data for data in DATA_SETS if any(key[0] == data for key in runs)]


# Numbers.


def less(runs, key, baseline):
    """Points of accuracy above the baseline with the same data and batches, seed by seed."""
    return differences(runs, key, (*key[:2], baseline), *ACCURACY)


def table_of(runs, data):
    header = ["batches", "contender", "accuracy", "less batch normalization"]
    header += ["less counterpart", "open gates", "training loss", "seeds", "seconds"]
    rows = []
    for key, of_key in runs.items():
        if key[0] != data:
            continue
        contender, found = CONTENDERS[key[2]], list(of_key.values())
        gates = [100 * np.mean(run["open_gates"]) for run in found if "open_gates" in run]
        rows.append(
            [
                key[1],
                contender.title,
                with_deviation([last(run, *ACCURACY) for run in found]),
                with_interval(less(runs, key, "batch")),
                with_interval(less(runs, key, contender.counterpart))
                if contender.counterpart
                else "",
                f"{np.mean(gates):.0f} %" if gates else "",
                f"{np.mean([last(run, 'train_loss') for run in found]):.3f}",
                f"{len(found)}",
                f"{np.mean([run['seconds'] for run in found]):.0f}",
            ]
        )
    return header, rows


def claims(runs):
    def compared(sentence, batches, name, baseline, least):
        values = less(runs, ("cifar10", batches, name), baseline)
        if len(values) > 1:
            yield claim(sentence, np.mean(values) > least, f"{with_interval(values)} points")

    ours, second, largest = "batch normalization", "light_32_second_largest", "light_32_largest"
    below = f"at most {LIMIT:g} point below {ours}"
    sentence = f"ranges with the calibrated constant are {below}"
    yield from compared(sentence, MIXED, "range_calibrated", "batch", -LIMIT)
    sentence = f"LightNorm with blocks of 32 is {below}"
    yield from compared(sentence, MIXED, second, "batch", -LIMIT)
    sentence = "with blocks of 32 the second largest exponent is above the largest"
    yield from compared(sentence, MIXED, second, largest, 0)
    sentence = f"with homogeneous batches the adaptive layer is above {ours}"
    yield from compared(sentence, HOMOGENEOUS, "adaptive_layer", "batch", 0)


# Pictures.


def plot_accuracy(runs, data, path):
    """A panel for each family of contenders and kind of batches, beside batch normalization."""
    panels = {
        (family, batches): [
            key
            for key in runs
            if key[:2] == (data, batches) and (key[2] == "batch" or belongs(key[2]))
        ]
        for family, belongs in FAMILIES.items()
        for batches in ((MIXED, HOMOGENEOUS) if family == "adaptive" else (MIXED,))
    }
    panels = {name: keys for name, keys in panels.items() if keys}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, ((family, batches), keys) in zip(axes.flat, panels.items(), strict=False):
        for number, key in enumerate(keys):
            values = 100 * np.array(
                [run["test_accuracy"] for run in runs[key].values()], dtype=float
            )
            color = "black" if key[2] == "batch" else f"C{number - 1}"
            epochs = np.arange(1, 1 + values.shape[1])
            plot_band(axis, epochs, values, color, label=CONTENDERS[key[2]].title)
        axis.set_title(f"{family}, {batches} batches", fontsize=10)
        axis.set(xlabel="epoch", ylabel="test accuracy, %")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def plot_differences(runs, data, path):
    """A bar for each contender, from top to bottom as in the table."""
    found = [
        (key, interval(values))
        for key in runs
        if key[0] == data and (values := less(runs, key, "batch"))
    ]
    figure = Figure(figsize=(8, 1.2 + 0.28 * max(1, len(found))), layout="constrained")
    axis = figure.subplots()
    labels = [f"{CONTENDERS[key[2]].title} ({key[1]})" for key, _ in found]
    means = [mean for _, (mean, _) in found]
    halves = [half for _, (_, half) in found]
    colors = ["tab:blue" if key[1] == MIXED else "tab:orange" for key, _ in found]
    axis.barh(labels, means, xerr=halves, color=colors, alpha=0.8, capsize=2)
    axis.axvline(0, color="black", lw=0.8)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("test accuracy less batch normalization, points, 95 % interval")
    axis.grid(axis="x", alpha=0.3)
    save_figure(figure, path)
