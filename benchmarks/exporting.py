"""What converters make of exported models: operations and int8 errors, ours and stock Keras's.

    python benchmarks/exporting.py [--layers BatchNormalization] [--centered]

Needs the extra `deploy`.
"""

import argparse
import contextlib
import json
import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import exported
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from timing import environment, headline

import keras_norms

RUNTIMES = ("LiteRT", "LiteRT int8", "ONNX Runtime")
STOCK = "stock"


def main():
    options = arguments()
    tf.get_logger().setLevel("ERROR")
    warnings.simplefilter("ignore")  # Those of the converters, about themselves.
    header, console = environment(), Console()
    console.print(headline(header))
    results = {network: {STOCK: measured(network, STOCK)} for network in options.networks}
    for layer in options.layers:
        for network, by_layer in results.items():
            # A scope of its own only for what is not the default.
            with keras_norms.exporting(True) if options.centered else contextlib.nullcontext():
                by_layer[layer] = measured(network, layer)
        console.print(table(results, layer))
    console.print("int8 error: in standard deviations of the output.")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"environment": header, "results": results}, file, indent=1)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    every = list(exported.NETWORKS)
    parser.add_argument("--networks", nargs="+", default=every, choices=every)
    layers = [name for name in exported.LAYERS if name != STOCK]
    parser.add_argument("--layers", nargs="+", default=layers, choices=layers)
    parser.add_argument("--centered", action="store_true", help="with the mean subtracted first")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file, too")
    parser.add_argument("--smoke", action="store_true", help="one network, to see that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.networks, options.layers = ["Dense, norm"], ["BatchNormalization"]
    return options


def measured(network, layer):
    """Operations by runtime, and errors of float32 and of int8 by runtime."""
    model, x = exported.trained(network, layer)
    expected = np.asarray(model(x, training=False))
    lite, narrow = exported.lite_model(model), exported.lite_model(model, x[:64])
    portable = exported.onnx_model(model)
    errors = {
        "LiteRT": exported.relative_error(exported.lite_outputs(lite, x), expected),
        "LiteRT int8": exported.relative_error(exported.lite_outputs(narrow, x), expected),
        "ONNX Runtime": exported.relative_error(exported.onnx_outputs(portable, x), expected),
    }
    for runtime in ("LiteRT", "ONNX Runtime"):
        if errors[runtime] > 1e-5:
            raise SystemExit(f"{network}, {layer}: {runtime} is off by {errors[runtime]:.2g}.")
    operations = {
        "LiteRT": exported.lite_operations(lite),
        "LiteRT int8": exported.lite_operations(narrow),
        "ONNX Runtime": exported.onnx_operations(portable),
    }
    return {"operations": operations, "errors": errors}


def table(results, layer):
    grid = Table(title=f"{layer} / stock: operations, and the error of int8")
    grid.add_column("network")
    for name in (*RUNTIMES, "int8 error"):
        grid.add_column(name, justify="right")
    for network, by_layer in results.items():
        ours, stock = by_layer[layer], by_layer[STOCK]
        cells = [
            " / ".join(str(len(r["operations"][name])) for r in (ours, stock)) for name in RUNTIMES
        ]
        error = " / ".join(f"{r['errors']['LiteRT int8']:.4f}" for r in (ours, stock))
        grid.add_row(network, *cells, error)
    return grid


if __name__ == "__main__":
    main()
