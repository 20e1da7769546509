"""`keras-norms cost`: the bytes of activations that normalization moves in a training step."""

import json
import sys

from rich.console import Console

from keras_norms.cli.errors import sentence
from keras_norms.cli.model_files import load_model
from keras_norms.models.light_norm_cost import light_norm_cost


def run(options):
    """Returns 0, or 2 on an error."""
    try:
        cost = _cost(options)
    except Exception as error:  # A pipeline reads one line, whatever went wrong.
        print(f"keras-norms cost: {sentence(error)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(cost.to_json(), indent=2))
    else:
        print(cost.table(Console().width))
    return 0


def _cost(options):
    return light_norm_cost(
        load_model(options.model),
        options.batch_size,
        input_shape=tuple(options.input_shape) if options.input_shape else None,
        number_format=_none(options.number_format, "none"),
        gradient_format=_none(options.gradient_format, "none"),
        block_size=_none(options.block_size, 0),
    )


def _none(value, word):
    return None if value == word else value
