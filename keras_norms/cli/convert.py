"""`keras-norms convert`: a copy of a model with other batch normalization layers."""

import ast

from keras_norms.cli.commands import guarded, write_changed
from keras_norms.keras_api import keras
from keras_norms.models.layer_conversion import OURS
from keras_norms.models.model_conversion import convert_batch_norm
from keras_norms.printable import printable


def run(options):
    """Returns 0, or 2 on an error."""
    return guarded("convert", _convert, options)


def _convert(options):
    to = _class(options.to)
    arguments = dict(map(_argument, options.arguments))
    write_changed(options, lambda model: convert_batch_norm(model, to, **arguments))


def _class(name):
    if name == "stock":
        return keras.layers.BatchNormalization
    classes = {each.__name__: each for each in OURS}
    if name not in classes:
        listed = ", ".join(classes)
        raise ValueError(f"--to must be stock or one of {listed}. Received: {printable(name)}.")
    return classes[name]


def _argument(text):
    name, equals, value = text.partition("=")
    try:
        value = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        pass  # A string may come without quotes.
    if not equals or not name.isidentifier():
        raise ValueError(f"--set must be NAME=VALUE. Received: {printable(text)}.")
    return name, value
