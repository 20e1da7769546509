"""The command line.

`keras-norms doctor` says what layers run on here, and why; `keras-norms build` builds the
compiled library for the TensorFlow that is installed here; `keras-norms inspect` compares live data
with what a model was used to.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

from keras_norms import inspection

TESTED_TENSORFLOW = ("2.15", "2.21")  # The minor versions that setup.cfg admits.


def main(arguments=None):
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="keras-norms", description="Batch normalization for TensorFlow and Keras."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("doctor", help="say what the layers run on here, and why")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=doctor)
    command = commands.add_parser("build", help="build the compiled library")
    command.add_argument(
        "--cuda",
        choices=("auto", "require", "skip"),
        default=os.environ.get("KERAS_NORMS_BUILD_CUDA") or "auto",
        help="for NVIDIA GPUs: if nvcc is there (auto, the default), or fail, or never",
    )
    command.add_argument(
        "--output",
        metavar="FOLDER",
        help="where the library goes; the default is where layers look for it, the user's cache",
    )
    command.set_defaults(run=build)
    command = commands.add_parser("inspect", help="compare data with the reference of a model")
    inspection.add_arguments(command)
    command.set_defaults(run=inspection.inspect)
    options = parser.parse_args(arguments)
    return options.run(options)


def doctor(options):
    """Prints the findings. Returns 1 if layers cannot be relied on here, otherwise 0."""
    findings = examine()
    if options.json:
        print(json.dumps(findings, indent=2))
    else:
        _print_table(findings)
    return 1 if findings["problems"] else 0


def build(options):
    """Builds the library and says what layers run on then. Returns 1 if it cannot be built."""
    from rich.console import Console

    import keras_norms
    from keras_norms.ops import library

    def report(line):
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    console = Console()
    builder = _builder("build")
    folder = pathlib.Path(options.output or library.cache_folder()).absolute()
    report(f"Building into {folder}; 1-2 minutes, with nvcc 2-4 (`--cuda skip` leaves it out).")
    try:
        builder.build(folder, keras_norms.__version__, cuda=options.cuda, report=report)
    except (_builder("compiler").BuildError, OSError) as error:
        Console(stderr=True).print(f"The compiled library was not built. {error}", markup=False)
        return 1
    if folder in (library.package_folder(), library.cache_folder()):
        report("Built. `keras-norms doctor` says whether layers run on it.")
    else:
        report(f"Built. Layers find it as {library.cache_folder()}.")
    return 0


def examine():
    """Returns versions, devices, the implementation in use and problems, all JSON types."""
    import tensorflow as tf

    import keras_norms
    from keras_norms.keras_api import IS_KERAS_3, backend_name, keras
    from keras_norms.ops import library
    from keras_norms.ops.choice import implementation_in_use

    native = keras_norms.native_status()
    legacy = not IS_KERAS_3 and keras.layers.Layer.__module__.startswith("tf_keras")
    backend = backend_name()
    problems = []
    is_tested = ".".join(tf.__version__.split(".")[:2]) in TESTED_TENSORFLOW
    if not is_tested:
        tested = " and ".join(f"{minor}.*" for minor in TESTED_TENSORFLOW)
        problems.append(f"TensorFlow {tf.__version__} is not tested; {tested} are.")
    if library.load().is_refused:
        problems.append(f"Layers run on plain TensorFlow. {library.load().reason}")
    if backend != "tensorflow":
        problems.append(f"Keras runs on {backend}. Set KERAS_BACKEND=tensorflow.")
    return {
        "keras_norms": keras_norms.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "tensorflow_is_tested": is_tested,
        "keras": {
            "api": "Keras 3" if IS_KERAS_3 else "Keras 2",
            "distribution": "tf_keras" if legacy else "keras",
            "version": importlib.metadata.version("tf_keras" if legacy else "keras"),
            "backend": backend,
        },
        "numpy": importlib.metadata.version("numpy"),
        "devices": [device.name for device in tf.config.list_physical_devices()],
        "native": native._asdict() | {"is_current": _is_current(native)},
        "implementation": implementation_in_use(),
        "problems": problems,
    }


def _builder(name):
    """A module of custom_ops; in a checkout that is not installed, that lies beside the package."""
    try:
        return importlib.import_module(f"keras_norms.custom_ops.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"custom_ops.{name}")


def _is_current(native):
    """Whether the library was built from the sources that are here, or None without a library."""
    from keras_norms.ops import library

    if native.built_for is None:
        return None
    return library.load().built["sources"] == _builder("compiler").hash_sources()


def _print_table(findings):
    from rich.console import Console
    from rich.table import Table

    kind, native = findings["keras"], findings["native"]
    state = "available" if native["available"] else "not available"
    library = f"{state}: {native['reason']}"
    if native["is_current"] is False:
        library += " Its sources have changed since. Rebuild it with `keras-norms build`."
    architectures = ", ".join(f"sm_{name}" for name in native["cuda_architectures"])
    xla = {"ffi": "the same kernels on the CPU", "hlo": "operations for XLA to fuse", None: "no"}
    tested = "tested" if findings["tensorflow_is_tested"] else "not tested"
    if findings["implementation"] == "native":
        implementation = "native: the compiled library"
    else:
        why = "it is chosen" if native["available"] else "the compiled library cannot be used"
        implementation = f"reference: plain TensorFlow, since {why}"
    rows = {
        "keras_norms": findings["keras_norms"],
        "Python": findings["python"],
        "TensorFlow": f"{findings['tensorflow']} ({tested})",
        "tf.keras": f"{kind['api']} ({kind['distribution']} {kind['version']})",
        "Keras backend": kind["backend"],
        "NumPy": findings["numpy"],
        "Devices": "\n".join(
            name.removeprefix("/physical_device:") for name in findings["devices"]
        ),
        "Compiled library": library,
        "for CUDA": architectures or "no",
        "in XLA programs": xla[native["xla"]],
        "Layers run on": implementation,
    }
    table = Table(title="keras-norms doctor", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    for problem in findings["problems"]:
        table.add_row("[red]Problem", problem)
    if not findings["problems"]:
        table.add_row("[green]Problems", "none")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
