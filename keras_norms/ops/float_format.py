"""Small floating-point formats: what one is made of, and those with a name."""

import dataclasses

from keras_norms.arguments import is_int, require


@dataclasses.dataclass(frozen=True)
class FloatFormat:
    """A floating-point format with a sign bit, as in IEEE 754.

        value = +-1.mantissa * 2^exponent,    1 - emax <= exponent <= emax,
        emax = 2^(exponent_bits - 1) - 1

    The top exponent is reserved for infinity and NaN. Below the smallest normal value the spacing
    stays the same down to 0 (subnormal values).

    Args:
        exponent_bits: 2 to 8.
        mantissa_bits: explicit ones, 1 to 23; the leading 1 is not stored.

    Attributes:
        largest: the largest finite value, `(2 - 2^-mantissa_bits) 2^emax`.
        smallest_normal: `2^(1 - emax)`.
        smallest: the smallest subnormal value, `2^(1 - emax - mantissa_bits)`.

    Raises:
        ValueError: if a number of bits is out of its range.

    Example:

    >>> fp10 = keras_norms.number_formats.FloatFormat(exponent_bits=5, mantissa_bits=4)
    >>> fp10.largest, fp10.smallest_normal, fp10.smallest
    (63488.0, 6.103515625e-05, 3.814697265625e-06)
    """

    exponent_bits: int
    mantissa_bits: int

    def __post_init__(self):
        require(
            not is_int(self.exponent_bits) or self.exponent_bits != 0,
            "FloatFormat",
            "a format without an exponent is fixed point, so `exponent_bits` must be 2 to 8",
            exponent_bits=self.exponent_bits,
        )
        for name, low, high in (("exponent_bits", 2, 8), ("mantissa_bits", 1, 23)):
            value = getattr(self, name)
            rule = f"`{name}` must be an int in [{low}, {high}]"
            require(is_int(value) and low <= value <= high, "FloatFormat", rule, **{name: value})

    @property
    def emax(self):
        """The largest exponent, which is also the bias."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def emin(self):
        """The smallest exponent of a normal value."""
        return 1 - self.emax

    @property
    def largest(self):
        return (2.0 - 2.0**-self.mantissa_bits) * 2.0**self.emax

    @property
    def smallest_normal(self):
        return 2.0**self.emin

    @property
    def smallest(self):
        return 2.0 ** (self.emin - self.mantissa_bits)


# fpX_1EM: X bits in all, 1 for the sign, E for the exponent, M for the mantissa.
FORMATS = {
    "fp8_152": FloatFormat(5, 2),
    "fp8_143": FloatFormat(4, 3),
    "fp10_154": FloatFormat(5, 4),
    "fp10_163": FloatFormat(6, 3),
    "fp12_156": FloatFormat(5, 6),
    "fp12_165": FloatFormat(6, 5),
    "fp15_168": FloatFormat(6, 8),
    "bfloat16": FloatFormat(8, 7),
    "float16": FloatFormat(5, 10),
}


def format_of(value, owner, name="format"):
    """Returns the `FloatFormat` that is given, or that a name of `FORMATS` stands for."""
    if isinstance(value, FloatFormat):
        return value
    rule = f"`{name}` must be a FloatFormat or one of {', '.join(map(repr, FORMATS))}"
    require(isinstance(value, str) and value in FORMATS, owner, rule, **{name: value})
    return FORMATS[value]
