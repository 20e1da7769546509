"""LightNorm: range normalization in small number formats with shared exponents."""

import dataclasses
import math

import tensorflow as tf

from keras_norms.arguments import require
from keras_norms.layers.channels import argument_names
from keras_norms.layers.keras_2 import registered
from keras_norms.layers.range_base import RangeNormalizationBase
from keras_norms.layers.rules import check_arguments, check_choice
from keras_norms.ops.float_format import FloatFormat, format_of
from keras_norms.ops.kernels import blend
from keras_norms.ops.rounding import ALIGNMENTS, Rounding, rounded

FORMAT_NAMES = "number_format", "gradient_format"


@registered
class LightNormalization(RangeNormalizationBase):
    """Normalizes by ranges, with numbers as LightNorm keeps them: small, in blocks of one exponent.

    With `Q` the rounding to `number_format` and `B` block floating point, over blocks of
    `block_size` neighbouring channels (see `number_formats`):

        x      <- B(Q(x)),  gamma <- B(Q(gamma))
        x_hat  = Q((x - mean) / scale),       mean and scale as in `RangeBatchNormalization`
        y      = B(Q(gamma * x_hat + beta))

    Gradients pass straight through `B` and `Q`: in training they are those of
    `RangeBatchNormalization` at the rounded x and gamma. The gradients of `y` and of `x` are
    themselves rounded to `gradient_format`, in blocks too. Statistics, weights and their gradients
    are not rounded.
    Training and inference, and `trainable = False`, round alike; inference uses `moving_mean` and
    `moving_scale`, which the published code does not have.

    Use it to find out what a network loses on hardware with such numbers, or to train one for it.
    It simulates: tensors keep their dtype, and nothing is faster or smaller here.
    `light_norm_cost` counts the bytes that would be saved. Not for speed; for that, use
    `BatchNormalization`.

    Every part can be switched off: `number_format=None`, `gradient_format=None`, `block_size=None`,
    and `range_constant=None`, which takes mean and variance as `BatchNormalization` does.

    Args:
        axis: see `BatchNormalization`, as for all but these. Defaults to `-1`.
        momentum: Defaults to `0.99`.
        epsilon: added to the deviation; without ranges, to the variance. Defaults to `1e-5`.
        number_format: a name of `number_formats.FORMATS`, a `number_formats.FloatFormat`, or None
            to keep values as they are. Defaults to `"fp10_154"`.
        gradient_format: the same for gradients; None also leaves them without blocks.
            Defaults to `"bfloat16"`.
        block_size: channels that share an exponent, at most all of them; the last block takes what
            is left. None for no blocks. Defaults to `32`.
        mantissa_bits: of the largest values of a block, with the leading 1: 2 to 24. None for those
            of `number_format`, 5 for fp10_154. Blocks of gradients have those of
            `gradient_format`. Defaults to `None`.
        alignment: `"second_largest"`, so that an outlier does not wipe out its block, or
            `"largest"`: the exponent that a block shares. Defaults to `"second_largest"`.
        rounding: `"nearest_even"`, or `"truncate"`, as the published code does. Blocks truncate.
            Defaults to `"nearest_even"`.
        num_chunks: see `RangeBatchNormalization`. Defaults to `8`.
        range_constant: see there; or None for the variance. Defaults to `"lightnorm"`, after which
            `y` has a deviation of 0.55 to 0.67 gamma.
        **kwargs: all other arguments of `BatchNormalization` but `unbiased_moving_variance`.

    Call arguments, shapes and weights: as `RangeBatchNormalization`; without ranges, as
    `BatchNormalization`.

    Raises:
        ValueError: as `RangeBatchNormalization`; for an unknown format; for a `block_size` above
            the number of channels; for blocks without a width.

    Example:

    >>> layer = keras_norms.LightNormalization(block_size=2, num_chunks=1)
    >>> layer(tf.constant([[1.03, 9.7], [2.06, 4.1], [-3.1, 0.3]]), training=True).numpy()
    array([[ 0.296875  ,  0.78125   ],
           [ 0.59375   , -0.09765625],
           [-0.90625   , -0.6875    ]], dtype=float32)

    Reference:
        Noh et al., 2022, https://arxiv.org/abs/2211.02686; the order of the steps is that of
        their published simulator.
    """

    can_do_without = True

    # Values and gradients are rounded where the layer ends.
    _fuses = False

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-5,
        *,
        number_format="fp10_154",
        gradient_format="bfloat16",
        block_size=32,
        mantissa_bits=None,
        alignment="second_largest",
        rounding="nearest_even",
        num_chunks=8,
        range_constant="lightnorm",
        **kwargs,
    ):
        super().__init__(
            axis,
            momentum,
            epsilon,
            num_chunks=num_chunks,
            range_constant=range_constant,
            **kwargs,
        )
        self.number_format = _given(number_format)
        self.gradient_format = _given(gradient_format)
        self.block_size = block_size
        self.mantissa_bits = mantissa_bits
        self.alignment = alignment
        self.rounding = rounding
        check_choice(self, "alignment", ALIGNMENTS, self._owner)
        check_choice(self, "rounding", ("nearest_even", "truncate"), self._owner)
        check_arguments(self, argument_names(LightNormalization), self._owner)
        for name in FORMAT_NAMES:
            if getattr(self, name) is not None:
                format_of(getattr(self, name), self._owner, name)
        has_width = number_format is not None or mantissa_bits is not None
        rule = "blocks without a `number_format` need `mantissa_bits`"
        require(block_size is None or has_width, self._owner, rule, mantissa_bits=mantissa_bits)

    def get_config(self):
        config = super().get_config()
        for name in FORMAT_NAMES:
            if isinstance(config[name], FloatFormat):
                config[name] = dataclasses.asdict(config[name])
        return config

    def _add_state(self, shape):
        channels = math.prod(shape)
        rule = "`block_size` must be at most the number of channels"
        is_within = self.block_size is None or self.block_size <= max(channels, 1)
        require(is_within, self._owner, rule, block_size=self.block_size, channels=channels)
        super()._add_state(shape)

    def _read_parameters(self):
        """With gamma in blocks."""
        parameters = super()._read_parameters()
        if self.scale:
            parameters["gamma"] = rounded(parameters["gamma"][tf.newaxis], 1, self._in_blocks)[0]
        return parameters

    def _viewed(self, inputs, mask):
        x, weights, axis, restore = super()._viewed(inputs, mask)
        x = rounded(x, axis, self._in_blocks, self._of_gradients)
        return x, weights, axis, lambda y: restore(rounded(y, axis, None, self._of_gradients))

    def _formula(self, state):
        """With the inverse scale as an extra, for `x_hat`."""
        standardization = super()._formula(state)

        def formula(statistics, gamma=None, beta=None):
            inverse_scale, center, _ = standardization(statistics)
            scale = inverse_scale if gamma is None else gamma * inverse_scale
            return scale, center, beta, inverse_scale

        return formula

    def _infer(self, x, state, parameters, axis, weights, after):
        inverse_scale, center, _ = self._inference_affine(state)
        return self._writer(axis, weights)(x, center, inverse_scale, **parameters)

    def _writer(self, axis, weights):
        def write(x, center, inverse_scale, gamma=None, beta=None):
            size = self.virtual_batch_size if center.shape.rank == 2 else None
            layout = dict(axis=axis, weights=weights, segment_size=size)
            x_hat = blend(v=x, b=inverse_scale, center=center, **layout)
            x_hat = rounded(x_hat, axis, self._of_values)
            if gamma is None and beta is None:
                y = x_hat
            else:
                gamma = tf.ones_like(beta) if gamma is None else gamma
                y = blend(v=x_hat, b=gamma, c=beta, axis=axis)
            return rounded(y, axis, self._in_blocks)

        return write

    @property
    def rounds(self):
        """Whether inference rounds."""
        return any(rule is not None for rule in (self._of_values, self._in_blocks))

    @property
    def _of_values(self):
        """How single values are rounded, or None."""
        return self._rounding(self.number_format)

    @property
    def _in_blocks(self):
        """How activations and gamma are."""
        return self._with_blocks(self._of_values, self.mantissa_bits)

    @property
    def _of_gradients(self):
        """How gradients of activations are."""
        return self._with_blocks(self._rounding(self.gradient_format))

    def _rounding(self, number_format):
        if number_format is None:
            return None
        return Rounding(format_of(number_format, self._owner), self.rounding)

    def _with_blocks(self, rounding, mantissa_bits=None):
        """The same and blocks, whose width is that of the format where none is given."""
        if self.block_size is None or (rounding is None and mantissa_bits is None):
            return rounding
        rounding = rounding or Rounding()
        return rounding._replace(
            block_size=self.block_size,
            block_mantissa_bits=mantissa_bits or rounding.format.mantissa_bits + 1,
            alignment=self.alignment,
        )


def _given(number_format):
    """A format as it was given, or as a config holds it."""
    names = {field.name for field in dataclasses.fields(FloatFormat)}
    is_config = isinstance(number_format, dict) and number_format.keys() == names
    return FloatFormat(**number_format) if is_config else number_format
