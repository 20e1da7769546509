"""What the allocator and the size of memory pages make of a training step on a CPU.

An allocator is chosen when a process starts, so each setting is measured in processes of its own.
The settings take turns, in a new order each round. All but `onednn` run without oneDNN, with which
TensorFlow keeps memory itself.

    python benchmarks/pages.py [--cases layers] [--settings default,tcmalloc] [--rounds 3]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from ctypes.util import find_library
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from contenders import Case, Parameters, keras_steps
from resnet50 import batch_of_noise, ours, stock_model, training_step, with_layers
from rich.console import Console
from rich.table import Table
from timing import Timing, environment, headline, interleaved

from keras_norms.diagnostics.memory_pages import memory_pages

SHAPES = "32x112x112x64,32x56x56x64,32x28x28x128"
SMOKE_SHAPES = "4x6x6x8"
WARMUP = 3
# More than any tensor has. Arenas other than the first never hold more than 64 MB.
THRESHOLDS = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
ONE_ARENA = f"{THRESHOLDS}:glibc.malloc.arena_max=1"
HUGE_PAGES = "glibc.malloc.hugetlb=1"
KEEP = "oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1"
SETTINGS = {
    "default": {},
    "hugetlb": {"GLIBC_TUNABLES": HUGE_PAGES},
    "thresholds": {"GLIBC_TUNABLES": THRESHOLDS},
    "one-arena": {"GLIBC_TUNABLES": ONE_ARENA},
    "one-arena-hugetlb": {"GLIBC_TUNABLES": f"{ONE_ARENA}:{HUGE_PAGES}"},
    "tcmalloc": {"LD_PRELOAD": find_library("tcmalloc_minimal") or find_library("tcmalloc")},
    "jemalloc": {"LD_PRELOAD": find_library("jemalloc")},
    "jemalloc-keep": {"LD_PRELOAD": find_library("jemalloc"), "MALLOC_CONF": KEEP},
    "onednn": {"TF_ENABLE_ONEDNN_OPTS": "1"},
}
# What no setting inherits from the process that starts it.
CHOSEN = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_CONF", "TF_ENABLE_ONEDNN_OPTS")


class Result(NamedTuple):
    """What a step of a case takes under a setting, over all rounds."""

    timing: Timing
    processor_seconds: float
    system_seconds: float
    page_faults: float

    @classmethod
    def of(cls, steps):
        columns = {name: np.array([step[name] for step in steps]) for name in steps[0]}
        rest = (float(np.median(columns[name])) for name in cls._fields[1:])
        return cls(Timing(columns["seconds"]), *rest)


def main():
    options = arguments()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    console = Console()
    for name in set(options.settings) - set(installed(options.settings)):
        console.print(f"{name}: its library is not installed.")
    header, results = rounds(options)
    console.print(headline(header))
    for case, by_setting in results.items():
        console.print(table(case, by_setting))
    console.print(
        f"Median of {options.rounds} rounds, of the median of {options.repeats} steps each. "
        "/ default: time over that of the default, the median over rounds. processor ms: of all "
        "threads; system: what of it the system took; faults: minor page faults of a step."
    )
    if options.json:
        record = {case: as_json(by_setting) for case, by_setting in results.items()}
        with open(options.json, "w") as file:
            json.dump({"environment": header, "rounds": options.rounds, "cases": record}, file)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", default="layers,resnet50")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="always with the default")
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--repeats", type=int, default=10, help="timed steps in a process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="a tiny layer, to see that it runs")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.size, options.batch, options.classes = 64, 32, 10  # Of resnet50.
    if options.smoke:
        options.cases, options.settings, options.shapes = "layers", "hugetlb", SMOKE_SHAPES
        options.repeats, options.rounds = 2, 1
    options.settings = list(dict.fromkeys(["default", *options.settings.split(",")]))
    for name in options.settings:
        if name not in SETTINGS:
            parser.error(f"--settings must be some of {', '.join(SETTINGS)}. Received: {name}.")
    return options


def installed(names):
    return [name for name in names if None not in SETTINGS[name].values()]


def rounds(options):
    """Returns the environment of the default, and a `Result` by setting by case."""
    found, header = {}, None
    generator = np.random.default_rng()
    for _ in range(options.rounds):
        for name in generator.permutation(installed(options.settings)):
            measured = in_a_process(name)
            header = measured["environment"] if name == "default" else header
            for case, step in measured["steps"].items():
                found.setdefault(case, {}).setdefault(name, []).append(step)
    return header, {
        case: {name: Result.of(by_setting[name]) for name in installed(options.settings)}
        for case, by_setting in found.items()
    }


def in_a_process(name):
    """What `measure` returns in a process of that setting."""
    inherited = {key: value for key, value in os.environ.items() if key not in CHOSEN}
    chosen = {"TF_ENABLE_ONEDNN_OPTS": "0", **SETTINGS[name]}
    output = subprocess.run(
        [sys.executable, *sys.argv, "--measure"],
        env=inherited | chosen,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    measured = json.loads(output.splitlines()[-1])
    wanted = name.partition("-")[0]
    if "LD_PRELOAD" in chosen and measured["allocator"] != wanted:
        sys.exit(f"{chosen['LD_PRELOAD']} was not used: malloc is {measured['allocator']}'s.")
    return measured


def measure(options):
    """Seconds and page faults of the steps of all cases in this process."""
    steps = {}
    if "layers" in options.cases:
        for shape in options.shapes.split(","):
            steps |= timed(layer_steps(Case.parse(shape)), options)
    if "resnet50" in options.cases:
        steps |= timed(model_steps(options), options)
    return {
        "environment": environment(),
        "allocator": memory_pages().allocator,
        "steps": steps,
    }


def timed(calls, options):
    calls = {name: Counted(call) for name, call in calls.items()}
    timings = interleaved(calls, options.repeats, warmup=WARMUP)
    return {
        name: {
            "seconds": float(np.median(timings[name].seconds)),
            **dict(zip(Result._fields[1:], np.mean(call.notes[WARMUP:], axis=0), strict=True)),
        }
        for name, call in calls.items()
    }


class Counted:
    """A step that notes processor time, what of it the system took, and minor page faults."""

    def __init__(self, step):
        self.step = step
        self.notes = []

    def __call__(self):
        before = usage()
        done = np.asarray(self.step())
        self.notes.append(usage() - before)
        return done


def usage():
    """Of all threads since the process began."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([used.ru_utime + used.ru_stime, used.ru_stime, used.ru_minflt])


def layer_steps(case):
    generator = np.random.default_rng(0)
    x, dy = (tf.constant(generator.normal(size=case.shape), tf.float32) for _ in range(2))
    parameters = Parameters.random(case.shape[case.axis])
    steps = keras_steps(case, tf.float32, parameters, jit=False)
    return {
        f"{case}, {name}": lambda step=steps[name]: step(x, dy)["done"]
        for name in ("ours", "stock")
    }


def model_steps(options):
    batch, stock = batch_of_noise(options), stock_model(options)
    models = {"ours": with_layers(stock, ours), "stock": stock}
    steps = {name: training_step(model) for name, model in models.items()}
    return {f"ResNet-50, {name}": lambda step=step: step(*batch) for name, step in steps.items()}


def table(case, by_setting):
    grid = Table(title=case)
    grid.add_column("setting", no_wrap=True)
    for name in ("step ms", "(quartiles)", "/ default", "processor ms", "system", "faults"):
        grid.add_column(name, justify="right")
    for name, (timing, processor, system, faults) in by_setting.items():
        ratio = f"{timing.over(by_setting['default'].timing):.2f}"
        used = f"{1e3 * processor:.3g}", f"{1e3 * system:.3g}", f"{faults:.0f}"
        grid.add_row(name, *timing.cells(), ratio, *used)
    return grid


def as_json(by_setting):
    return {
        name: {
            "milliseconds": timing.milliseconds,
            "over_default": timing.over(by_setting["default"].timing),
            "processor_milliseconds": 1e3 * processor,
            "system_milliseconds": 1e3 * system,
            "page_faults": faults,
        }
        for name, (timing, processor, system, faults) in by_setting.items()
    }


if __name__ == "__main__":
    main()
