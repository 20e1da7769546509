"""The table of commands: what each is called and takes. Only the one that runs is imported.

So `--help` and `--version` answer without TensorFlow, which takes seconds to import.
"""

import argparse
import importlib
import os
import sys

from keras_norms.cli.errors import cannot_import
from keras_norms.version import __version__


def main(arguments=None):
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="keras-norms", description="Batch normalization for TensorFlow and Keras."
    )
    parser.add_argument("--version", action="version", version=f"keras-norms {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (summary, add_arguments) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=EPILOGS.get(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command.add_argument)
    options = parser.parse_args(arguments)
    try:
        module = importlib.import_module(f"keras_norms.cli.{options.command}")
    except ImportError as error:
        reason = cannot_import(error)
        print(f"keras-norms {options.command} cannot run here. {reason}", file=sys.stderr)
        return 1
    return module.run(options)


def _doctor(add):
    add("--json", action="store_true", help="print JSON instead of a table")


def _build(add):
    add(
        "--for",
        choices=("tensorflow", "jax"),
        default="tensorflow",
        dest="target",
        help="what runs on it: layers, or keras_norms.jax; default tensorflow",
    )
    add(
        "--cuda",
        choices=("auto", "require", "skip"),
        default=os.environ.get("KERAS_NORMS_BUILD_CUDA") or "auto",
        help="GPU kernels: built if nvcc is found (auto, the default), required, or skipped",
    )
    add(
        "--output",
        metavar="FOLDER",
        help="where the library goes; the default is where layers look for it, the user's cache",
    )


def _inspect(add):
    add("model", metavar="MODEL", help="a model that Keras saved")
    add("--data", metavar="NPZ", required=True, help="inputs: one array, or one for each input")
    add("--reference", metavar="JSON", help="default: MODEL's name with .statistics.json")
    add(
        "--import",
        metavar="MODULE",
        dest="module",
        help="a module that registers layers, imported first",
    )
    add("--other-weights", action="store_true", help="the model has been trained since --record")
    add("--record", action="store_true", help="write the reference from this data, compare nothing")
    add("--measure", choices=("psi", "kl"), default="psi", help="default psi")
    add("--threshold", type=float, default=0.25, help="of a drifted channel, default 0.25")
    add(
        "--tolerate",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of channels that may drift, default 0; use a few hundred instances or more",
    )
    add("--batch-size", type=int, default=32, help="default 32")
    add("--steps", type=int, help="read at most this many batches")
    add("--top", type=int, default=10, help="how many channels the table lists, default 10")
    add("--report", metavar="FOLDER", help="write drift.png and drift.html; needs matplotlib")
    add("--json", action="store_true", help="print JSON instead of a table")


def _cost(add):
    add("model", metavar="MODEL", help="a model that Keras saved")
    add("--batch-size", type=int, metavar="N", help="default: that of the model's inputs, or 32")
    add(
        "--input-shape",
        type=int,
        nargs="+",
        metavar="SIZE",
        help="of an instance, where the model does not know it",
    )
    add(
        "--number-format",
        default="fp10_154",
        metavar="NAME",
        help="of activations, or none for that of the model; default fp10_154",
    )
    add(
        "--gradient-format",
        default="bfloat16",
        metavar="NAME",
        help="of their gradients, or none; default bfloat16",
    )
    add(
        "--block-size",
        type=int,
        default=32,
        metavar="N",
        help="channels that share an exponent, or 0 for no blocks; default 32",
    )
    add("--json", action="store_true", help="print JSON instead of a table")


def _files(add):
    add("model", metavar="MODEL", help="a model that Keras saved; it stays as it is")
    add("output", metavar="OUTPUT", help="where the new model goes: a name that ends in .keras")
    add("--force", action="store_true", help="replace OUTPUT if there is one")
    _module(add)


def _module(add):
    add(
        "--import",
        metavar="MODULE",
        dest="module",
        help="a module that registers layers, imported first",
    )


def _json(add):
    add("--json", action="store_true", help="print JSON instead of a table")


def _convert(add):
    _files(add)
    add(
        "--to",
        default="SyncBatchNormalization",
        metavar="CLASS",
        help="of keras_norms, or stock; default SyncBatchNormalization",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="arguments",
        help="an argument of all new layers; may be given several times",
    )
    _json(add)


def _fold(add):
    _files(add)
    _json(add)


def _fuse(add):
    _files(add)
    add("--undo", action="store_true", help="make activations layers of their own again")
    _json(add)


def _recompute(add):
    _files(add)
    add("--data", metavar="NPZ", required=True, help="inputs: one array, or one for each input")
    add("--batch-size", type=int, default=32, metavar="N", help="default 32")
    add("--steps", type=int, metavar="N", help="read at most this many batches")
    add(
        "--sequential",
        action="store_true",
        help="layer by layer, each behind recomputed ones; reads the data once for each",
    )
    _json(add)


def _advise(add):
    add("model", metavar="MODEL", help="a model that Keras saved")
    add("--data", metavar="NPZ", required=True, help="inputs: one array, or one for each input")
    add("--replicas", type=int, required=True, metavar="R", help="how many replicas train it")
    add("--batch", type=int, required=True, metavar="B", help="instances of each replica")
    add("--limit", type=float, default=0.2, metavar="NOISE", help="that is small; default 0.2")
    _module(add)
    _json(add)


def _bench(add):
    add("--rounds", type=int, default=20, metavar="N", help="calls of each layer; default 20")
    _json(add)


COMMANDS = {
    "doctor": ("say what the layers run on here, and why", _doctor),
    "build": ("build the compiled library", _build),
    "inspect": ("compare data with a model's reference", _inspect),
    "convert": ("write a copy of a model with other batch normalization layers", _convert),
    "fold": ("write a copy of a model for inference, without normalization where it can", _fold),
    "fuse": ("write a copy of a model whose normalizations compute their activations", _fuse),
    "recompute": ("write a copy of a model with statistics taken anew from data", _recompute),
    "advise": ("measure which layer a model wants on several replicas", _advise),
    "bench": ("time the layers of this package against stock Keras, here", _bench),
    "cost": ("count the bytes that normalization moves in a training step", _cost),
}

_RETURNS = "Returns 0, or 2 on an error, with one line on stderr that says what it was."
EPILOGS = {
    "convert": f"""examples:
  keras-norms convert model.keras synchronized.keras
  keras-norms convert model.keras renorm.keras --to BatchRenormalization --set r_max=3.0
  keras-norms convert synchronized.keras stock.keras --to stock --set synchronized=False

{_RETURNS}""",
    "fold": f"""example:
  keras-norms fold model.keras serving.keras

{_RETURNS}""",
    "fuse": f"""examples:
  keras-norms fuse model.keras fused.keras
  keras-norms fuse fused.keras plain.keras --undo

{_RETURNS}""",
    "recompute": f"""example:
  keras-norms recompute averaged.keras ready.keras --data train.npz --batch-size 128

{_RETURNS}""",
    "advise": f"""example:
  keras-norms advise model.keras --data train.npz --replicas 8 --batch 4

{_RETURNS}""",
    "bench": f"""example:
  keras-norms bench --rounds 50

{_RETURNS}""",
}
