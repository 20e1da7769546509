"""The results of a study: a file of finished runs that several processes add to."""

import fcntl
import json
import os

import numpy as np

from experiments.bad_input import BadInput, require
from keras_norms.files import write_whole


class Results:
    """The finished runs, in a JSON file that several processes add to.

    Args:
        path: the file, which may not exist yet.
        size: images, epochs and the like. A file holds runs of one size only.
    """

    def __init__(self, path, size):
        self.path, self.size = path, size
        self.read()

    def read(self):
        if not self.path.exists():
            return {"size": self.size, "runs": {}}
        content = read_json(self.path)
        size = content.get("size")
        is_whole = isinstance(size, dict) and isinstance(content.get("runs"), dict)
        require(is_whole and self.are_runs(content["runs"]), f"{self.path} is not a results file.")
        changed = [
            f"{name} {value}" for name, value in size.items() if value != self.size.get(name)
        ]
        require(not changed, f"{self.path} has runs with {', '.join(changed)}; give another --out.")
        return content

    def has(self, *key):
        return self.key(*key) in self.read()["runs"]

    def add(self, *key, run):
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # No other process adds between reading and writing.
            content = self.read()
            content["runs"][self.key(*key)] = run
            content["runs"] = dict(sorted(content["runs"].items()))
            lines = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in content["runs"].items())
            size, runs = json.dumps(content["size"]), ",\n".join(lines)
            write(self.path, f'{{"size": {size},\n"runs": {{\n{runs}\n}}}}\n')
        finally:
            os.close(folder)

    @staticmethod
    def are_runs(runs):
        """Whether they look like what `add` wrote. The key of a training ends in its seed."""
        return all(
            isinstance(run, dict)
            and ("/" not in key or (key.rpartition("/")[2].isdecimal() and "seconds" in run))
            for key, run in runs.items()
        )

    @staticmethod
    def key(*parts):
        """The key of a run from its parts: setting, method and seed, for example."""
        return "/".join(map(str, parts))


def plain(scalar):
    """A number for JSON, which has no NaN: a training that diverged has None there."""
    value = round(float(scalar), 5)
    return value if np.isfinite(value) else None


def read_json(path):
    """The JSON object of a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not a results file.") from error
    require(isinstance(content, dict), f"{path} is not a results file.")
    return content


def write(path, text):
    """Replaces the file as a whole."""
    write_whole(path, text.encode())
