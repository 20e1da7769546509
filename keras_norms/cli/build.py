"""`keras-norms build`: builds the compiled library for the installed TensorFlow, or for JAX."""

import importlib
import pathlib
import sys

from rich.console import Console

from keras_norms.cli.errors import cannot_import
from keras_norms.compiled.library_files import Refused
from keras_norms.printable import printable
from keras_norms.version import __version__


def run(options):
    """Builds the library and says what layers run on then. Returns 1 if it cannot be built."""

    def report(line):
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    console = Console()
    is_for_jax = options.target == "jax"
    try:
        library = importlib.import_module(f"keras_norms.{'jax' if is_for_jax else 'ops'}.library")
    except ImportError as error:
        return _failed(cannot_import(error))
    try:
        places = library.places()
        cache = places.cache()
        folder = pathlib.Path(options.output or cache).absolute()
        if folder == cache:
            places.check_cache()
        duration = "1-2 minutes"
        if not is_for_jax:
            duration += ", with nvcc 2-4 (`--cuda skip` leaves it out)"
        report(f"Building into {printable(folder)}; {duration}.")
        if is_for_jax:
            custom_ops("jax_library").build_for_jax(folder, __version__, report=report)
        else:
            custom_ops("build").build(folder, __version__, cuda=options.cuda, report=report)
    except (custom_ops("compiler").BuildError, Refused, OSError) as error:
        return _failed(error)
    if folder not in (places.package(), cache):
        finder = "keras_norms.jax finds" if is_for_jax else "Layers find"
        report(f"Built. {finder} it as {printable(cache)}.")
    elif is_for_jax:
        report("Built. `keras_norms.jax.native_status()` says whether it is in use.")
    else:
        report("Built. `keras-norms doctor` says whether layers run on it.")
    return 0


def _failed(error):
    lines = f"The compiled library was not built. {error!s}".splitlines()
    print(*map(printable, lines), sep="\n", file=sys.stderr)
    return 1


def custom_ops(name):
    """A module of custom_ops; in a checkout that is not installed, it lies beside the package."""
    try:
        return importlib.import_module(f"keras_norms.custom_ops.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"custom_ops.{name}")
