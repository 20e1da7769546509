"""`keras-norms build`: builds the compiled library for the TensorFlow that is installed."""

import importlib
import pathlib
import sys

from rich.console import Console

from keras_norms.ops import library
from keras_norms.printable import printable
from keras_norms.version import __version__


def run(options):
    """Builds the library and says what layers run on then. Returns 1 if it cannot be built."""

    def report(line):
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    console = Console()
    builder = custom_ops("build")
    try:
        cache = library.cache_folder()
        folder = pathlib.Path(options.output or cache).absolute()
        if folder == cache:
            library.check_cache()
        duration = "1-2 minutes, with nvcc 2-4 (`--cuda skip` leaves it out)"
        report(f"Building into {printable(folder)}; {duration}.")
        builder.build(folder, __version__, cuda=options.cuda, report=report)
    except (custom_ops("compiler").BuildError, library.Refused, OSError) as error:
        lines = f"The compiled library was not built. {error!s}".splitlines()
        print(*map(printable, lines), sep="\n", file=sys.stderr)
        return 1
    if folder in (library.package_folder(), cache):
        report("Built. `keras-norms doctor` says whether layers run on it.")
    else:
        report(f"Built. Layers find it as {printable(cache)}.")
    return 0


def custom_ops(name):
    """A module of custom_ops; in a checkout that is not installed, it lies beside the package."""
    try:
        return importlib.import_module(f"keras_norms.custom_ops.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"custom_ops.{name}")
