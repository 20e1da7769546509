"""What the commands of the experiments share: options, the sentence about bad input, the runs."""

import sys
from pathlib import Path

from images import BadInput, quiet, require

with quiet():
    import tensorflow as tf

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def add_options(parser, seeds):
    """Those of every experiment; `seeds` is the default of `--seeds`."""
    add = parser.add_argument
    shown = " ".join(map(str, seeds))
    add("--seeds", type=int, nargs="+", default=seeds, help=f"default {shown}")
    add("--threads", type=int, default=1, help="default 1: two processes do more than two threads")
    add("--out", type=Path, default=Path("demo_output"), help="default %(default)s")
    add("--report", action="store_true", help="train nothing, only write the report")


def check_options(options, positive, names=()):
    """Raises `BadInput`.

    Args:
        options: the parsed ones.
        positive: which numbers must be above 0.
        names: of options with several names: what one is, those given, those there are.
    """
    for what, given, known in names:
        for name in given:
            require(name in known, f"there is no {what} {name}; there are {', '.join(known)}.")
    for name in positive:
        value = getattr(options, name)
        sentence = f"--{name.replace('_', '-')} must be positive and finite, but is {value}."
        require(0 < value < float("inf"), sentence)
    require(min(options.seeds) >= 0, f"a seed must be at least 0, but one is {min(options.seeds)}.")
    most = max(options.seeds)
    require(most < 2**32, f"a seed must be below 2^32, but one is {most}.")
    require(not options.out.is_file(), f"{options.out} is a file, not a folder.")


def exit_status(script, work, options):
    """Calls `work(options, console)`: 0, or 2 after a sentence about bad input."""
    tf.get_logger().setLevel("ERROR")
    try:
        require(
            0 < options.threads <= 1024,
            f"--threads must be from 1 to 1024, but is {options.threads}.",
        )
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
        work(options, Console())
    except (BadInput, OSError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        return 2
    return 0


def progress_bars(console):
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn(), console=console)


def train_missing(runs, results, console, epochs, train, said):
    """Trains what the results do not have yet, one run after the other.

    Args:
        runs: their keys, tuples.
        results: a `Results`.
        console: of rich.
        epochs: of a run.
        train: `train(*key, after_epoch=...)` returns a run and calls `after_epoch()` on the way.
        said: what the console is to say of a finished run.
    """
    results.path.parent.mkdir(parents=True, exist_ok=True)
    with progress_bars(console) as progress:
        all_runs = progress.add_task("runs", total=len(runs))
        for key in runs:
            if not results.has(*key):
                name = " ".join(map(str, key))
                task = progress.add_task(name, total=epochs)
                run = train(*key, after_epoch=lambda task=task: progress.advance(task))
                results.add(*key, run=run)
                progress.remove_task(task)
                console.print(f"{name}: {said(run)} in {run['seconds']:.0f} s")
            progress.advance(all_runs)
