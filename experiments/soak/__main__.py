"""An endurance run: workers that are killed and stopped at random, and started again.

A training on 2 workers with 2 replicas each, with uneven and empty shares and a NaN in every epoch,
is disturbed at random moments and started again until it is through. Then its weights and
statistics are compared with those of the same training without a disturbance. And so on, until
the time is over.

    python -m experiments.soak --minutes 30 [--seed 0] [--json FILE]
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.local_cluster import LocalCluster

WORKERS, REPLICAS = 2, 2
# Within which the others have to end when a worker is killed, and when it hangs.
BOUNDS = {"kill": 30.0, "hang": 60.0}
FINISHED = 300.0
RTOL = 1e-6


class Failed(Exception):
    """What should not have happened."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="default %(default)s")
    parser.add_argument("--rounds", type=int, help="end after so many, if the time is not over")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the counts to this file, too")
    options = parser.parse_args()
    console, generator = Console(), random.Random(options.seed)
    end = time.monotonic() + 60 * options.minutes
    counts = dict.fromkeys(("rounds", "starts", "kill", "hang"), 0) | {"seconds": [], "apart": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        try:
            expected = undisturbed(pathlib.Path(folder, "undisturbed"))
            while time.monotonic() < end and counts["rounds"] != options.rounds:
                one_round(pathlib.Path(folder, str(counts["rounds"])), expected, generator, counts)
        except Failed as error:
            console.print(f"Failed in round {counts['rounds']}: {error}", style="red")
            counts["failed"] = str(error)
    console.print(table(counts))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(counts))
    sys.exit("failed" in counts)


def cluster(folder):
    folder.mkdir(exist_ok=True)
    return LocalCluster(["-m", "experiments.soak.worker", folder, REPLICAS], WORKERS, folder)


def undisturbed(folder):
    with cluster(folder) as workers:
        finish(workers)
    return np.load(folder / "weights_0.npz")


def one_round(folder, expected, generator, counts):
    """Disturbs a training up to four times, lets it finish, and compares."""
    for _ in range(generator.randint(1, 4)):
        disturb(folder, generator, counts)
    with cluster(folder) as workers:
        counts["starts"] += 1
        finish(workers)
    for index in range(WORKERS):
        found = np.load(folder / f"weights_{index}.npz")
        for name in expected:
            scale = RTOL * max(1.0, np.abs(expected[name]).max())
            apart = np.abs(found[name] - expected[name]).max()
            counts["apart"] = max(counts["apart"], float(apart))
            if not apart <= scale:
                raise Failed(f"weight {name} of worker {index} is {apart:.1e} apart")
    counts["rounds"] += 1


def disturb(folder, generator, counts):
    """Starts the training, and kills or stops a worker somewhere on the way."""
    way, index = generator.choice(["kill", "kill", "hang"]), generator.randrange(WORKERS)
    batches = generator.randint(1, 12)
    with cluster(folder) as workers:
        counts["starts"] += 1
        wait_for_batches(workers, batches)
        if all(process.poll() == 0 for process in workers.processes):
            return  # It was through before.
        is_kill = way == "kill"
        workers.processes[index].send_signal(signal.SIGKILL if is_kill else signal.SIGSTOP)
        begin = time.monotonic()
        counts[way] += 1
        for other, process in enumerate(workers.processes):
            if other == index:
                continue
            try:
                code = process.wait(BOUNDS[way])
            except subprocess.TimeoutExpired:
                bound = f"within {BOUNDS[way]:.0f} seconds"
                raise Failed(f"after a {way}, worker {other} did not end {bound}") from None
            if code == 0:
                raise Failed(f"after a {way}, worker {other} ended as if nothing had happened")
        counts["seconds"].append([way, time.monotonic() - begin])


def wait_for_batches(workers, count):
    """Until a worker has made so many batches since its start, or all have ended."""
    end = time.monotonic() + FINISHED
    while workers.output(0).count("batch ") < count:
        codes = [process.poll() for process in workers.processes]
        if any(codes):
            raise Failed(f"the workers ended with {codes}: {workers.output(0)[-2000:]}")
        if codes == [0] * WORKERS:
            return
        if time.monotonic() > end:
            raise Failed(f"no batch within {FINISHED:.0f} seconds")
        time.sleep(0.05)


def finish(workers):
    try:
        codes = workers.wait(FINISHED)
    except subprocess.TimeoutExpired:
        raise Failed(f"the training did not end within {FINISHED:.0f} seconds") from None
    if any(codes):
        raise Failed(f"the workers ended with {codes}: {workers.output(0)[-2000:]}")


def table(counts):
    grid = Table("what", "count")
    seconds = {way: [s for name, s in counts["seconds"] if name == way] for way in BOUNDS}
    for way, what in (("kill", "workers killed"), ("hang", "workers stopped for good")):
        longest = f", the others ended within {max(seconds[way]):.1f} s" if seconds[way] else ""
        grid.add_row(what, f"{counts[way]}{longest}")
    grid.add_row("starts of all workers", str(counts["starts"]))
    grid.add_row("trainings that ended as undisturbed", str(counts["rounds"]))
    grid.add_row("largest difference of a weight or statistic", f"{counts['apart']:.1e}")
    return grid


if __name__ == "__main__":
    main()
