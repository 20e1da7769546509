"""What is compared: each contender by its name, with the layer that it puts into the network."""

import dataclasses
import functools
from collections.abc import Callable

import keras_norms
from experiments.range_norms.protocol import BAND, CLASSES, MOMENTUM

MIXED, HOMOGENEOUS = "mixed", "homogeneous"
BOTH = (MIXED, HOMOGENEOUS)


@dataclasses.dataclass(frozen=True)
class Contender:
    """One row of the tables.

    Attributes:
        title: what the report calls it.
        layer: makes a normalization layer of the network, or returns None for none.
        standardization: for a data set, makes what its training batches go through; or None.
        batches: the kinds of batches that it is trained with.
        counterpart: another contender that it is compared with, beside `batch`.
        after_relu: whether the layers follow each ReLU, in place of being before it.
    """

    title: str
    layer: Callable
    standardization: Callable | None = None
    batches: tuple = (MIXED,)
    counterpart: str | None = None
    after_relu: bool = False


def layer(name, **options):
    """A factory of the layer: a class that does not exist is an error only where it is used."""
    return functools.partial(_make, name, momentum=MOMENTUM, **options)


def _make(name, **options):
    return getattr(keras_norms, name)(**options)


def light(title, **options):
    return Contender(title, layer("LightNormalization", **options))


def light_part(title, **options):
    """LightNorm with all but one of its parts switched off."""
    off = dict(range_constant=None, number_format=None, gradient_format=None, block_size=None)
    return light(title, **(off | options))


def ranges(constant):
    made = layer("RangeBatchNormalization", range_constant=constant)
    return Contender(f"ranges, {constant} constant", made)


def standardized(title, band_of):
    """A network without normalization layers; batches are standardized where they need it."""

    def make(problem):
        band = band_of(problem)
        return keras_norms.AdaptiveBatchStandardization(num_classes=CLASSES, band=band)

    return Contender(title, no_layer, make, BOTH, counterpart="none")


def no_layer():
    return None


CONTENDERS = {
    "batch": Contender("batch normalization", layer("BatchNormalization"), batches=BOTH),
    "range_calibrated": ranges("calibrated"),
    "range_banner": ranges("banner"),
    "range_lightnorm": ranges("lightnorm"),
    **{
        f"light_{size}_{alignment}": light(
            f"LightNorm, blocks of {size}, {alignment.replace('_', ' ')} exponent",
            block_size=size,
            alignment=alignment,
        )
        for size in (4, 16, 32)
        for alignment in ("second_largest", "largest")
    },
    "light_32_truncate": light("LightNorm, blocks of 32, truncated", rounding="truncate"),
    "light_32_calibrated": light(
        "LightNorm, blocks of 32, calibrated constant", range_constant="calibrated"
    ),
    "only_number_format": light_part("only numbers in fp10_154", number_format="fp10_154"),
    "only_blocks": light_part("only blocks of 32, 5 bits", block_size=32, mantissa_bits=5),
    "only_gradient_format": light_part("only gradients in bfloat16", gradient_format="bfloat16"),
    "none": Contender("no normalization", no_layer, batches=BOTH),
    "adaptive_layer": Contender(
        f"adaptive layer, band {BAND}",
        layer("AdaptiveBatchNormalization", band=BAND),
        batches=BOTH,
        counterpart="none",
    ),
    "batch_after_relu": Contender(
        "batch normalization after ReLU",
        layer("BatchNormalization"),
        batches=BOTH,
        after_relu=True,
    ),
    "adaptive_layer_after_relu": Contender(
        f"adaptive layer after ReLU, band {BAND}",
        layer("AdaptiveBatchNormalization", band=BAND),
        batches=BOTH,
        counterpart="batch_after_relu",
        after_relu=True,
    ),
    "adaptive_input": standardized(f"adaptive input, band {BAND}", lambda _: BAND),
    "adaptive_input_narrow": standardized(
        "adaptive input, narrow band", lambda problem: problem.narrow_band
    ),
}
