"""The trainings of a study, one after the other, with their progress."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress_bars(console):
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn(), console=console)


def train_missing(runs, results, console, epochs, train, summary):
    """Trains the runs that the results do not hold yet.

    Args:
        runs: the keys of the runs, tuples.
        results: a `Results`.
        console: of rich.
        epochs: the number of epochs of a run.
        train: `train(*key, after_epoch=...)` returns a run and calls `after_epoch()` on the way.
        summary: `summary(run)` is what the console says of a finished run.
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
                console.print(f"{name}: {summary(run)} in {run['seconds']:.0f} s")
            progress.advance(all_runs)
