"""What the commands of the studies share: their options, their checks and their exit status."""

import argparse
import sys
from pathlib import Path

import tensorflow as tf
from rich.console import Console

from experiments.bad_input import BadInput, require


def parser_of(study, documentation):
    """A parser whose help begins with the first line of the documentation."""
    command = f"python -m experiments.{study}"
    return argparse.ArgumentParser(prog=command, description=documentation.splitlines()[0])


def add_options(parser, seeds):
    """Those of every study; `seeds` is the default of `--seeds`."""
    add = parser.add_argument
    shown = " ".join(map(str, seeds))
    add("--seeds", type=int, nargs="+", default=seeds, help=f"default {shown}")
    add("--threads", type=int, default=1, help="default 1: two processes do more than two threads")
    add("--out", type=Path, default=Path("demo_output"), help="default %(default)s")
    add("--report", action="store_true", help="train nothing, only write the report")


def check_options(options, positive, names=()):
    """Raises `BadInput` for an invalid option.

    Args:
        options: the parsed options.
        positive: the names of numbers that must be above 0.
        names: for each option that takes names: what a name stands for, the names that were given
            and the names that exist.
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
    check_folder(options.out)


def check_folder(path):
    require(not path.is_file(), f"{path} is a file, not a folder.")


def exit_status(study, work, options):
    """Calls `work(options, console)` and returns 0, or 2 after a sentence about bad input."""
    tf.get_logger().setLevel("ERROR")
    try:
        if "threads" in options:
            limit_threads(options.threads)
        work(options, Console())
    except (BadInput, OSError) as error:
        print(f"{study}: {error}", file=sys.stderr)
        return 2
    return 0


def limit_threads(count):
    require(0 < count <= 1024, f"--threads must be from 1 to 1024, but is {count}.")
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)
