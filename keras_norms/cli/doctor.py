"""`keras-norms doctor`: what layers run on here, and why."""

import importlib.metadata
import json
import platform
import warnings

import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_norms.cli.build import custom_ops
from keras_norms.diagnostics.memory_pages import memory_pages
from keras_norms.keras_api import IS_KERAS_3, backend_name, keras
from keras_norms.ops import library
from keras_norms.ops.choice import implementation_in_use, native_status
from keras_norms.version import __version__


def run(options):
    """Prints the findings. Returns 1 if layers cannot be relied on here, otherwise 0."""
    findings = examine()
    if options.json:
        print(json.dumps(findings, indent=2))
    else:
        _print_table(findings)
    return 1 if findings["problems"] else 0


def examine():
    """Returns versions, devices, memory, the implementation in use and problems, all JSON types."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "keras_norms runs on plain")  # The problems say so.
        native = native_status()
    memory = memory_pages()
    legacy = not IS_KERAS_3 and keras.layers.Layer.__module__.startswith("tf_keras")
    backend = backend_name()
    problems = []
    package = custom_ops("tensorflow_package")
    is_tested = package.minor_of(tf.__version__) in package.RELEASES
    if not is_tested:
        first, *_, last = package.RELEASES
        problems.append(
            f"keras_norms is tested with TensorFlow {first} to {last}. Received: {tf.__version__}. "
            f"Install another, such as `pip install tensorflow=={last}.*`."
        )
    if library.load().is_refused:
        problems.append(f"Layers run on plain TensorFlow. {library.load().reason}")
    if backend != "tensorflow":
        problems.append(f"Keras runs on {backend}. Set KERAS_BACKEND=tensorflow.")
    return {
        "keras_norms": __version__,
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
        "memory": memory._asdict() | {"allocator_in_words": memory.allocator_in_words},
        "problems": problems,
    }


def _is_current(native):
    """Whether the library was built from the sources that are here, or None without a library."""
    if native.built_for is None:
        return None
    return library.load().built["sources"] == custom_ops("compiler").hash_sources()


def _print_table(findings):
    kind, native, memory = findings["keras"], findings["native"], findings["memory"]
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
        "Allocator": f"{memory['allocator_in_words']}. {memory['allocator_advice']}",
        "Huge pages": f"{memory['huge_pages']}. {memory['huge_pages_advice']}",
    }
    table = Table(title="keras-norms doctor", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    for problem in findings["problems"]:
        table.add_row("[red]Problem", escape(problem))
    if not findings["problems"]:
        table.add_row("[green]Problems", "none")
    Console().print(table)
