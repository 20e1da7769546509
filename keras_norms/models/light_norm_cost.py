"""How many bytes of activations normalization moves in a training step, from shapes alone."""

import io
import math
from typing import Any, NamedTuple

import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_norms.arguments import is_size, require
from keras_norms.keras_api import keras, nested_layers
from keras_norms.layers.base import BatchNormalizationBase
from keras_norms.models.input_shapes import input_shapes
from keras_norms.models.statistics_layers import named
from keras_norms.ops.float_format import format_of
from keras_norms.printable import called, printable

CALLER = "light_norm_cost"


class Moved(NamedTuple):
    """Bytes, by how the layer is computed; see `light_norm_cost`."""

    two_pass: float
    one_pass: float
    range: float
    light_norm: float


class LayerCost(NamedTuple):
    """What a layer moves in a training step.

    Attributes:
        layer: its name. Duplicate names are numbered.
        calls: how often the model calls it.
        shape: of its input, in the first call.
        elements: of its inputs, in all calls.
        forward: bytes, a `Moved`.
        backward: bytes, a `Moved`.
    """

    layer: str
    calls: int
    shape: tuple
    elements: int
    forward: Moved
    backward: Moved

    @property
    def total(self):
        """Forward and backward together, a `Moved`."""
        return _sum([self.forward, self.backward])


class LightNormCost(NamedTuple):
    """What `light_norm_cost` returns.

    Attributes:
        rows: a list of `LayerCost`, in the order of the first calls.
        number_format: as given.
        gradient_format: as given.
        block_size: as given.
    """

    rows: list
    number_format: Any
    gradient_format: Any
    block_size: int | None

    @property
    def forward(self):
        """Bytes of all layers in the forward pass, a `Moved`."""
        return _sum([row.forward for row in self.rows])

    @property
    def backward(self):
        """Bytes of all layers in the backward pass, a `Moved`."""
        return _sum([row.backward for row in self.rows])

    @property
    def total(self):
        """Bytes of all layers in both passes, a `Moved`."""
        return _sum([self.forward, self.backward])

    def to_json(self):
        """All of it as JSON types."""
        return {
            "number_format": _name(self.number_format),
            "gradient_format": _name(self.gradient_format),
            "block_size": self.block_size,
            "layers": [
                {
                    "layer": row.layer,
                    "calls": row.calls,
                    "shape": list(row.shape),
                    "elements": row.elements,
                    **_passes(row),
                }
                for row in self.rows
            ],
            **_passes(self),
        }

    def table(self, width=120):
        """Text with a row for each layer: megabytes (10^6 bytes) of both passes."""
        title = "Activations moved in a training step, in MB"
        table = Table(title=title, title_justify="left")
        table.add_column("layer", overflow="fold")
        for name in ("shape", "two-pass", "one-pass", "range", "LightNorm"):
            table.add_column(name, justify="right")
        for row in self.rows:
            shape = "×".join(map(str, row.shape)) + (f", {row.calls} calls" * (row.calls > 1))
            table.add_row(escape(printable(row.layer)), shape, *map(_megabytes, row.total))
        table.add_section()
        for name in ("forward", "backward", "total"):
            table.add_row(name, "", *map(_megabytes, getattr(self, name)))
        shares = (f"{value / self.total.two_pass:.1%}" for value in self.total)
        table.add_row("share of two-pass", "", *shares)
        text = io.StringIO()
        Console(file=text, width=width).print(table)
        return text.getvalue().rstrip("\n")


def light_norm_cost(
    model,
    batch_size=None,
    *,
    input_shape=None,
    number_format="fp10_154",
    gradient_format="bfloat16",
    block_size=32,
):
    """Counts the bytes of activations that each batch normalization moves in a training step.

    Passes over memory are counted as if each read and write of an activation went there:

        system      forward                backward
        two_pass    3 reads of x, write y  read dy, x for the sums; dy, x for dx; write dx
        one_pass    2 reads of x, write y  the same
        range       2 reads of x, write y  read dy, x for the sums; dy for dx; write dx
        light_norm  as range, with x and y in `number_format`, dy and dx in `gradient_format`

    Two passes read x for the mean, for the variance and to normalize; one pass takes mean and
    variance together, as the layers of this package do; ranges take mean, maxima and minima
    together. The gradient of a range reaches its maxima and minima only, so that the second
    backward pass need not read x. Vectors of one value per channel, and the places of maxima and
    minima, are not counted. An element takes

        the first three        the bits of the layer's compute dtype
        without blocks         1 + exponent_bits + mantissa_bits
        in blocks              1 + (mantissa_bits + 1) + exponent_bits / block_size

    in bits: the sign; all bits of the mantissa, since with a shared exponent the leading 1 must be
    stored; and a share of the exponent. Blocks lie along the channel axis, and the last one may be
    smaller. Values that keep an exponent of their own, as outliers of a block may, are counted as
    if they shared it.

    Use it to see which layers of a model would gain from narrow formats. Not to predict time,
    energy or chip area: it claims nothing about them. Caches, and fusing with the layers around,
    move less. This package emulates narrow formats, so that its layers save no memory.

    Args:
        model: a built Keras model. Counted are its `keras.layers.BatchNormalization` and the
            layers of this package that take statistics of batches, at any depth.
        batch_size: how many instances a batch has. Defaults to that of the model's inputs, or 32.
        input_shape: the shape of an instance, without the batch: a tuple of ints, or a list or
            dict of them for several inputs. Needed where the model does not know all sizes.
            Defaults to those of the model.
        number_format: of x and y: a name such as `"fp10_154"`, `"fp8_143"` or `"bfloat16"`, an
            object with `exponent_bits` and `mantissa_bits`, or None for the compute dtype.
        gradient_format: of dy and dx, likewise.
        block_size: channels that share an exponent, or None for one in each element.

    Returns:
        A `LightNormCost`: `rows`, the sums `forward`, `backward` and `total`, `table()` for people
        and `to_json()` for programs.

    Raises:
        ValueError: for an invalid argument; if the model is not built, has no such layer, runs one
            in a loop or a `tf.cond`, or has sizes that nobody said.

    Example:

    >>> model = keras.Sequential([keras.Input((8, 8, 32)), keras.layers.BatchNormalization()])
    >>> cost = keras_norms.light_norm_cost(model, batch_size=2)
    >>> cost.rows[0].elements, cost.total.two_pass  # 9 passes of 4 bytes
    (4096, 147456.0)
    >>> cost.forward.light_norm  # 3 passes of 1 + 5 + 5/32 bits
    9456.0

    Reference:
        Noh et al., 2022, https://arxiv.org/abs/2211.02686, which argues in this way; the counts
        are this package's own.
    """
    x_format = _format_of(number_format, "number_format")
    dy_format = _format_of(gradient_format, "gradient_format")
    rule = "`batch_size` must be a positive int or None"
    require(batch_size is None or is_size(batch_size), CALLER, rule, batch_size=batch_size)
    rule = "`block_size` must be a positive int or None"
    require(block_size is None or is_size(block_size), CALLER, rule, block_size=block_size)
    layers = _layers(model)
    shapes = input_shapes(model, list(layers.values()), batch_size, input_shape, CALLER)
    rule = "the outputs of the model must depend on a batch normalization"
    require(shapes, CALLER, rule, model=called(model))
    rows = []
    for layer, of_layer in shapes.items():
        name = next(name for name, other in layers.items() if other is layer)
        calls = [_moved(layer, shape, x_format, dy_format, block_size) for shape in of_layer]
        forward, backward = (_sum(part) for part in zip(*calls, strict=True))
        elements = sum(map(math.prod, of_layer))
        rows.append(LayerCost(name, len(calls), of_layer[0], elements, forward, backward))
    return LightNormCost(rows, number_format, gradient_format, block_size)


def _layers(model):
    rule = "`model` must be a built Keras model"
    is_built = isinstance(model, keras.layers.Layer) and model.built
    require(is_built, CALLER, rule, model=model)
    kinds = BatchNormalizationBase, keras.layers.BatchNormalization
    layers = named(layer for layer in nested_layers(model) if isinstance(layer, kinds))
    rule = "the model must have a batch normalization, of Keras or of this package"
    require(layers, CALLER, rule, model=called(model))
    return layers


def _format_of(value, name):
    """What has `exponent_bits` and `mantissa_bits`, or None for the compute dtype."""
    return None if value is None else format_of(value, CALLER, name)


def _moved(layer, shape, x_format, dy_format, block_size):
    """Forward and backward."""
    wide = math.prod(shape) * tf.as_dtype(layer.compute_dtype).size
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    channels = math.prod(shape[axis] for axis in axes)

    def narrow(float_format):
        if float_format is None:
            return wide
        positions = math.prod(shape) // channels if channels else 0
        return positions * _bits(channels, float_format, block_size) / 8

    x, dy = narrow(x_format), narrow(dy_format)
    return (
        Moved(float(4 * wide), float(3 * wide), float(3 * wide), float(3 * x)),
        Moved(float(5 * wide), float(5 * wide), float(4 * wide), float(x + 3 * dy)),
    )


def _bits(channels, float_format, block_size):
    """Of all channels at one position."""
    exponent_bits, mantissa_bits = float_format.exponent_bits, float_format.mantissa_bits
    if block_size is None:
        return channels * (1 + exponent_bits + mantissa_bits)
    return channels * (2 + mantissa_bits) + -(-channels // block_size) * exponent_bits


def _sum(parts):
    return Moved(*(sum(values) for values in zip(*parts, strict=True)))


def _passes(cost):
    names = "forward", "backward", "total"
    return {f"{name}_bytes": getattr(cost, name)._asdict() for name in names}


def _name(value):
    if value is None or isinstance(value, str):
        return value
    return {name: getattr(value, name) for name in ("exponent_bits", "mantissa_bits")}


def _megabytes(value):
    return f"{value / 1e6:.4g}"
