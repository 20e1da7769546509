"""Folded models compute what the models before do in inference, and reports say what was left."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras, nested_layers
from tests import catalog
from tests.conformance import rows

layers = keras.layers
BN = keras_norms.BatchNormalization
main_leg = pytest.mark.main_leg


def set_weights(model, seed=0):
    """Gives all weights values that are none of the defaults; what is divided by is above 0."""
    generator = np.random.default_rng(seed)
    for layer in nested_layers(model):
        if not isinstance(layer, keras.Model):
            layer.set_weights([generator.uniform(0.3, 1.5, w.shape) for w in layer.get_weights()])
    return model


def data(*shape):
    return np.random.default_rng(1).normal(size=shape)


def fold(model):
    """Folds, and checks that the model is as before, bit by bit."""
    before, config = model.get_weights(), repr(model.get_config())
    folded, report = keras_norms.fold_batch_norm(model)
    assert repr(model.get_config()) == config
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    return folded, report


def assert_same_outputs(folded, model, x, rtol=1e-9):
    expected, actual = model(x), folded(x)
    tf.nest.assert_same_structure(actual, expected)
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert one.dtype == other.dtype
        scale = float(tf.reduce_max(tf.abs(other)))
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * scale)


def chain(shape, *parts, dtype="float64"):
    """A functional model of layers one after the other, in float64 with weights of its own."""
    outputs = inputs = keras.Input(shape, dtype=dtype)
    for part in parts:
        outputs = part(outputs)
    return set_weights(keras.Model(inputs, outputs))


# A layer that can take a normalization before it, and the shape of what it takes.
EXACT_BEFORE = {
    "dense": (lambda **o: layers.Dense(3, activation="relu", **o), (4,)),
    "dense_of_sequences": (lambda **o: layers.Dense(3, use_bias=False, **o), (5, 4)),
    "conv_1d": (lambda **o: layers.Conv1D(3, 2, strides=2, **o), (7, 4)),
    "conv_2d": (lambda **o: layers.Conv2D(3, (2, 3), use_bias=False, **o), (5, 6, 4)),
    "conv_2d_padded_1": (
        lambda **o: layers.Conv2D(3, 1, strides=2, padding="same", **o),
        (5, 6, 4),
    ),
    "conv_3d": (lambda **o: layers.Conv3D(2, 2, **o), (3, 4, 3, 4)),
    "transposed_1": (lambda **o: layers.Conv2DTranspose(3, 1, use_bias=False, **o), (4, 3, 4)),
    "depthwise_1d": (lambda **o: layers.DepthwiseConv1D(2, use_bias=False, **o), (5, 4)),
    "depthwise_2d": (lambda **o: layers.DepthwiseConv2D(2, depth_multiplier=3, **o), (4, 4, 4)),
    "separable_1d": (lambda **o: layers.SeparableConv1D(3, 2, use_bias=False, **o), (5, 4)),
    "separable_2d": (lambda **o: layers.SeparableConv2D(3, 2, depth_multiplier=2, **o), (4, 4, 4)),
}
INEXACT_BEFORE = {
    "conv_1d_causal": (lambda **o: layers.Conv1D(3, 2, padding="causal", **o), (5, 4)),
    "conv_2d_padded": (lambda **o: layers.Conv2D(3, 3, padding="same", **o), (5, 6, 4)),
    "dilated": (lambda **o: layers.Conv2D(3, 3, padding="same", dilation_rate=2, **o), (5, 6, 4)),
    "depthwise_padded": (
        lambda **o: layers.DepthwiseConv2D(3, padding="same", strides=2, **o),
        (5, 5, 4),
    ),
    "separable_padded": (lambda **o: layers.SeparableConv2D(2, 3, padding="same", **o), (5, 5, 4)),
    "transposed_1d": (lambda **o: layers.Conv1DTranspose(2, 3, use_bias=False, **o), (4, 4)),
    "transposed_2d": (
        lambda **o: layers.Conv2DTranspose(3, 3, strides=2, padding="same", **o),
        (3, 4, 4),
    ),
    "transposed_3d": (lambda **o: layers.Conv3DTranspose(2, 2, **o), (2, 2, 3, 4)),
    "transposed_strided": (lambda **o: layers.Conv2DTranspose(3, 1, strides=2, **o), (3, 4, 4)),
}


def branches(make, shape, norm):
    """One model in which a layer has a normalization before it, after it, and on both sides."""
    x = keras.Input(shape, dtype="float64")

    def layer(name):
        return make(name=name, dtype="float64")

    def normalization(name):
        return norm(dtype="float64", name=name)

    linear = layer("l_after")
    linear.activation = keras.activations.linear
    after = normalization("after")(linear(x))
    before = layer("l_before")(normalization("before")(x))
    linear = layer("l_both")
    linear.activation = keras.activations.linear
    both = normalization("both_1")(linear(normalization("both_0")(x)))
    return set_weights(keras.Model(x, [after, before, both]))


# Stock layers with two of them: they differ from ours in what the vectors are read from.
NORMS = [
    pytest.param(*EXACT_BEFORE[name], norm, id=f"{name}-{kind}")
    for kind, norm in {"ours": BN, "stock": layers.BatchNormalization}.items()
    for name in (EXACT_BEFORE if kind == "ours" else ["dense", "conv_2d"])
]


@pytest.mark.parametrize("make, shape, norm", NORMS)
def test_before_and_after(make, shape, norm):
    model = branches(make, shape, norm)
    folded, report = fold(model)
    assert {row.path: row.became for row in report} == {
        "after": "l_after",
        "before": "l_before",
        "both_0": "l_both",
        "both_1": "l_both",
    }
    assert not [layer for layer in folded.layers if isinstance(layer, norm)]
    assert_same_outputs(folded, model, data(2, *shape))


@main_leg
@pytest.mark.parametrize("make, shape", INEXACT_BEFORE.values(), ids=INEXACT_BEFORE)
def test_after_only(make, shape):
    """An offset before these would be missing at the border; a scale is folded."""
    model = branches(make, shape, BN)
    folded, report = fold(model)
    for row in report:
        if row.path in ("before", "both_0"):
            assert row.became is None
            assert row.note.endswith("and the offset is not 0")
        else:
            assert row.became == {"after": "l_after", "both_1": "l_both"}[row.path]
    assert_same_outputs(folded, model, data(2, *shape))

    bare = chain(shape, BN(center=False, dtype="float64"), make(dtype="float64"))
    bare.layers[1].moving_mean.assign(np.zeros(4))
    folded, (row,) = fold(bare)
    assert row.became == bare.layers[2].name
    assert_same_outputs(folded, bare, data(2, *shape))


@main_leg  # On a CPU, groups are compiled by XLA.
def test_groups():
    model = branches(lambda **o: layers.Conv2D(6, 2, groups=2, **o), (4, 4, 4), BN)
    folded, report = fold(model)
    assert all(row.became for row in report)
    assert_same_outputs(folded, model, data(2, 4, 4, 4))


@pytest.mark.parametrize("make", [layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D])
def test_channels_first(make):
    """A CPU cannot run them. Their kernels, and so the folded ones, are those of channels last."""
    size = (2,) if make is layers.DepthwiseConv2D else (3, 2)
    found = []
    for shape, axis, data_format in (
        ((4, 5, 5), 1, "channels_first"),
        ((5, 5, 4), -1, "channels_last"),
    ):
        layer = make(*size, data_format=data_format, dtype="float64")
        model = chain(shape, BN(axis=axis, dtype="float64"), layer, BN(axis=axis, dtype="float64"))
        folded, report = fold(model)
        assert all(row.became for row in report)
        found.append(folded.get_weights())
    for first, last in zip(*found, strict=True):
        np.testing.assert_array_equal(first, last)


def affine(norm):
    """Scale and offset of a normalization, from its weights."""
    gamma, beta, mean, variance = norm.get_weights()
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - scale * mean


def test_dense_weights():
    """Against the formulas."""
    model = chain((2,), BN(dtype="float64"), layers.Dense(3, dtype="float64"), BN(dtype="float64"))
    (before, dense, after), (folded, _) = model.layers[1:], fold(model)
    (scale, offset), (scale_after, offset_after) = affine(before), affine(after)
    kernel, bias = dense.get_weights()
    expected_kernel = scale[:, np.newaxis] * kernel * scale_after
    expected_bias = scale_after * (offset @ kernel + bias) + offset_after
    for actual, expected in zip(
        folded.get_weights(), (expected_kernel, expected_bias), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("is_depthwise", [False, True], ids=["plain", "depthwise"])
def test_convolution_outputs(is_depthwise):
    """Against a convolution in NumPy: `conv(scale * x + offset)`, then the second normalization."""
    if is_depthwise:
        conv = layers.DepthwiseConv2D(2, depth_multiplier=2, use_bias=False, dtype="float64")
    else:
        conv = layers.Conv2D(3, 2, use_bias=False, dtype="float64")
    model = chain((4, 4, 2), BN(dtype="float64"), conv, BN(dtype="float64"))
    folded, _ = fold(model)
    x = data(2, 4, 4, 2)
    (scale, offset), (scale_after, offset_after) = affine(model.layers[1]), affine(model.layers[3])
    windows = np.lib.stride_tricks.sliding_window_view(scale * x + offset, (2, 2), axis=(1, 2))
    (kernel,) = conv.get_weights()
    y = np.einsum("bhwcij,ijcm->bhwcm" if is_depthwise else "bhwcij,ijcm->bhwm", windows, kernel)
    y = y.reshape(*y.shape[:3], -1)
    np.testing.assert_allclose(folded(x), scale_after * y + offset_after, rtol=1e-10)


LAYERS = (*rows.PLAIN, "batchless_inverse", "batch_bare", "light_moments")


@main_leg
@pytest.mark.parametrize("row", [pytest.param(catalog.ROWS[name], id=name) for name in LAYERS])
def test_all_layers(row):
    norm = row.make(dtype="float64", name="norm")
    model = chain(row.shape[1:], norm, layers.Dense(2, name="dense", dtype="float64"))
    folded, ((path, _, into, reason),) = fold(model)
    assert path == "norm"
    if row.layer is keras_norms.LightNormalization:
        assert reason == "it rounds in inference"
    else:
        assert into == "dense"
        assert_same_outputs(folded, model, data(*row.shape))


def test_stock_renorm():
    """In inference it is what it is without."""
    norm = layers.BatchNormalization(renorm=True, dtype="float64")
    model = chain((4,), layers.Dense(3, name="dense", dtype="float64"), norm)
    folded, (row,) = fold(model)
    assert row.became == "dense"
    assert_same_outputs(folded, model, data(3, 4))


@main_leg
def test_light_normalization_that_does_not_round():
    light = keras_norms.LightNormalization(number_format=None, block_size=None, dtype="float64")
    model = chain((4, 3), light, layers.Dense(2, dtype="float64"))
    folded, (row,) = fold(model)
    assert row.became == model.layers[2].name
    assert_same_outputs(folded, model, data(2, 4, 3))


@main_leg
def test_computed_in_float64():
    """Float32 weights are those of the exact fold, rounded once."""
    batchless = keras_norms.BatchlessNormalization(learning_rate_multiplier=3.0)
    for norm in (BN(), batchless, keras_norms.BatchRenormalization()):
        model = chain((4,), layers.Dense(3), norm, dtype="float32")
        twin = chain(
            (4,),
            layers.Dense(3, dtype="float64"),
            type(norm).from_config({**norm.get_config(), "dtype": "float64"}),
        )
        twin.set_weights([w.astype(np.float64) for w in model.get_weights()])
        for narrow, wide in zip(fold(model)[0].weights, fold(twin)[0].weights, strict=True):
            np.testing.assert_array_equal(narrow, np.asarray(wide).astype("float32"))


# Reasons.


class DenseOfMyOwn(layers.Dense):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


class NormOfMyOwn(BN):
    def call(self, inputs, training=None, mask=None):
        return 2.0 * super().call(inputs, training=training, mask=mask)


class StockOfMyOwn(layers.BatchNormalization):
    pass


def shared_norm(x):
    norm = BN(name="norm")
    return [norm(layers.Dense(3)(x)), norm(layers.Dense(3)(x))]


def shared_dense(x):
    dense = layers.Dense(4, name="dense")
    return BN(name="norm")(dense(dense(x)))


def two_consumers(x):
    h = layers.Dense(3, name="dense")(x)
    return layers.Add()([BN(name="norm")(h), h])


def dense_is_output(x):
    h = layers.Dense(3, name="dense")(x)
    return [BN(name="norm")(h), h]


def norm_has_two_consumers(x):
    h = BN(name="norm")(x)
    return [layers.Dense(3, name="dense")(h), layers.ReLU()(h)]


def norm_is_output(x):
    h = BN(name="norm")(x)
    return [layers.Dense(3, name="dense")(h), h]


def on_other_axis(x):
    h = layers.Conv1D(3, 2, name="conv")(layers.Reshape((2, 2))(x))
    return BN(axis=1, name="norm")(h)


def masked(x):
    h = layers.Dense(3, name="dense")(layers.Masking()(layers.Reshape((2, 2))(x)))
    return BN(name="norm")(h)


def mixed_dtypes(x):
    return BN(name="norm")(layers.Dense(3, dtype="mixed_float16", name="dense")(x))


def padded(x):
    h = BN(name="norm")(layers.Reshape((2, 2))(x))
    return layers.Conv1D(3, 3, padding="same", name="conv")(h)


def wrapped(x):
    return layers.TimeDistributed(BN(name="norm"), name="wrapper")(layers.Reshape((2, 2))(x))


def both_sides(x):
    h = BN(name="norm")(layers.Dense(3, activation="tanh", name="dense")(x))
    return [layers.Dense(3, name="head")(h), layers.ReLU()(h)]


REASONS = {
    "shared": (shared_norm, "it is shared"),
    "shared_neighbour": (shared_dense, "'dense' is shared"),
    "several_consumers": (two_consumers, "'dense' has several consumers"),
    "output": (dense_is_output, "'dense' is an output itself"),
    "several_consumers_before": (norm_has_two_consumers, "it has several consumers"),
    "output_before": (norm_is_output, "it is an output itself"),
    "activation": (
        lambda x: BN(name="norm")(layers.Dense(3, activation="relu", name="dense")(x)),
        "the activation of 'dense', relu, is between",
    ),
    "layer_between": (
        lambda x: BN(name="norm")(layers.ReLU()(layers.Dense(3)(x))),
        "no neighbour that can take it",
    ),
    "both_sides": (
        both_sides,
        "the activation of 'dense', tanh, is between; it has several consumers",
    ),
    "mask": (masked, "a mask arrives"),
    "axis": (on_other_axis, "its axis is not the channel axis of 'conv'"),
    "padding": (padded, "'conv' pads with zeros, and the offset is not 0"),
    "dtype": (mixed_dtypes, "its dtype is not that of 'dense'"),
    "training": (
        lambda x: BN(name="norm")(layers.Dense(3)(x), training=True),
        "it is in training mode",
    ),
    "stock_training": (
        lambda x: layers.BatchNormalization(name="norm")(layers.Dense(3)(x), training=True),
        "it is in training mode",
    ),
    "subclass": (
        lambda x: NormOfMyOwn(name="norm")(layers.Dense(3)(x)),
        "its class, NormOfMyOwn, may compute something else",
    ),
    "stock_subclass": (
        lambda x: StockOfMyOwn(name="norm")(layers.Dense(3)(x)),
        "its class, StockOfMyOwn, may compute something else",
    ),
    "neighbour_subclass": (
        lambda x: BN(name="norm")(DenseOfMyOwn(3, name="dense")(x)),
        "'dense' has a class of its own, DenseOfMyOwn",
    ),
    "rounds": (
        lambda x: keras_norms.LightNormalization(block_size=None, name="norm")(layers.Dense(3)(x)),
        "it rounds in inference",
    ),
    "wrapped": (wrapped, "it is inside of 'wrapper', a TimeDistributed"),
}


@pytest.mark.parametrize("build, reason", REASONS.values(), ids=REASONS)
def test_reasons(build, reason):
    inputs = keras.Input((4,))
    model = set_weights(keras.Model(inputs, build(inputs)))
    own = {c.__name__: c for c in (DenseOfMyOwn, NormOfMyOwn, StockOfMyOwn)}
    with keras.saving.custom_object_scope(own):
        folded, (row,) = fold(model)
    assert row.path.rpartition("/")[2] == "norm"
    assert (row.became, row.note) == (None, reason)
    expected, actual = (tf.nest.flatten(m(data(3, 4), training=False)) for m in (model, folded))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.keras_3  # Keras 2 quantizes nothing.
def test_a_quantized_neighbour():
    model = chain((4,), layers.Dense(3, name="dense"), BN(name="norm"), dtype="float32")
    model.get_layer("dense").enable_lora(2)
    _, (row,) = fold(model)
    assert row.note == "'dense' has more weights than kernels and a bias"


def test_stock_layers_ignore_masks():
    x = keras.Input((4, 2))
    h = layers.Dense(3, name="dense")(layers.Masking()(x))
    model = set_weights(keras.Model(x, layers.ReLU()(layers.BatchNormalization(name="norm")(h))))
    folded, (row,) = fold(model)
    assert row.became == "dense"
    batch = data(2, 4, 2).astype("float32")
    batch[0, 1:] = 0.0
    assert_same_outputs(folded, model, batch, rtol=1e-5)


def test_the_report_has_a_line_for_each():
    model = chain((4,), layers.Dense(3, name="dense"), BN(name="a"), layers.ReLU(), BN(name="b"))
    report = fold(model)[1]
    name = BN.__name__
    assert str(report).splitlines() == [
        f"a: {name} -> dense",
        f"b: {name} as it was (no neighbour that can take it)",
    ]


# Whole models.


def test_rows_of_normalizations():
    """One after the other, they go into the layer before, or the one after."""
    f64 = dict(dtype="float64")
    after = chain(
        (4,), layers.Dense(3, name="dense", **f64), BN(**f64), BN(**f64), layers.ReLU(**f64)
    )
    before = chain((4,), BN(**f64), BN(**f64), BN(**f64), layers.Dense(3, name="dense", **f64))
    for model in (after, before):
        folded, report = fold(model)
        assert {row.became for row in report} == {"dense"}
        assert_same_outputs(folded, model, data(3, 4))


def nested_model(name):
    x = keras.Input((4, 4, 3), dtype="float64")
    h = layers.Conv2D(3, 3, padding="same", name="conv", dtype="float64")(x)
    h = layers.ReLU(dtype="float64")(BN(name="norm", dtype="float64")(h))
    h = layers.BatchNormalization(name="last", dtype="float64")(h)
    return keras.Model(x, {"y": h}, name=name)


def test_inner_models_and_several_inputs_and_outputs():
    """A model inside that is called twice, inputs and outputs in dicts, tensors used by two."""
    f64 = dict(dtype="float64")
    left, right = (keras.Input((4, 4, 3), name=name, **f64) for name in ("left", "right"))
    inner = nested_model("inner")
    head = keras.Sequential(
        [layers.Flatten(**f64), layers.Dense(2, name="dense", **f64), BN(name="norm", **f64)],
        name="head",
    )
    a = BN(name="norm", **f64)(layers.Conv2D(3, 1, use_bias=False, name="conv", **f64)(left))
    total = layers.Add(**f64)([inner(a)["y"], inner(right)["y"], a])
    model = keras.Model({"right": right, "left": left}, {"total": head(total), "a": a})
    set_weights(model)
    folded, report = fold(model)
    assert [(row.path, row.became) for row in sorted(report)] == [
        ("head/norm", "dense"),
        ("inner/last", None),
        ("inner/norm", "conv"),
        ("norm", "conv"),
    ]
    assert folded.name == model.name
    names = [[tensor.name.partition(":")[0] for tensor in m.inputs] for m in (folded, model)]
    assert names[0] == names[1]
    batch = {"left": data(2, 4, 4, 3), "right": data(2, 4, 4, 3)[::-1]}
    assert_same_outputs(folded, model, batch)


@pytest.mark.parametrize("has_input", [True, False])
def test_sequential(has_input):
    first = [keras.Input((4,))] if has_input else []
    model = keras.Sequential([*first, BN(name="a"), layers.Dense(3, name="dense"), BN(name="b")])
    model.build((None, 4))
    set_weights(model)
    folded, report = fold(model)
    assert isinstance(folded, keras.Sequential)
    assert [layer.name for layer in folded.layers] == ["dense"]
    assert [row.became for row in report] == ["dense", "dense"]
    assert_same_outputs(folded, model, data(3, 4).astype("float32"), rtol=1e-5)


def test_what_is_trainable_and_dtypes_stay():
    policy = "mixed_bfloat16"
    parts = [layers.Dense(3, name="a", dtype=policy), BN(name="norm", dtype=policy)]
    parts += [layers.Dense(2, name="b"), nested := chain((2,), layers.Dense(2), dtype="float32")]
    model = chain((4,), *parts, dtype="float32")
    for layer in (model.get_layer("a"), nested.layers[1]):
        layer.trainable = False
    folded, (row,) = fold(model)
    assert row.became == "a"
    assert folded.get_layer("a").compute_dtype == "bfloat16"
    kept = [layer for layer in nested_layers(model) if layer.name != "norm"]
    for old, new in zip(kept, nested_layers(folded), strict=True):
        assert (old.name, old.trainable, old.compute_dtype) == (
            new.name,
            new.trainable,
            new.compute_dtype,
        )
    assert len(folded.trainable_weights) == 2  # Those of b.


def test_a_layer_in_two_models_is_folded_in_each():
    """In the new model there are two of it, as Keras makes of its config."""
    f64 = dict(dtype="float64")
    dense = layers.Dense(3, name="dense", **f64)
    x, inner_x = keras.Input((4,), **f64), keras.Input((4,), **f64)
    inner = keras.Model(inner_x, BN(name="norm", **f64)(dense(inner_x)), name="inner")
    model = keras.Model(x, [inner(x), layers.BatchNormalization(name="norm", **f64)(dense(x))])
    set_weights(model)
    folded, report = fold(model)
    assert sorted((row.path, row.became) for row in report) == [
        ("inner/norm", "dense"),
        ("norm", "dense"),
    ]
    assert_same_outputs(folded, model, data(3, 4))


def test_functions_of_python_in_lambda_layers():
    double = layers.Lambda(lambda x: 2.0 * x, output_shape=(3,), dtype="float64")
    f64 = dict(dtype="float64")
    model = chain((4,), layers.Dense(3, name="dense", **f64), BN(**f64), double)
    folded, (row,) = fold(model)
    assert row.became == "dense"
    assert_same_outputs(folded, model, data(3, 4))


def test_a_model_inside_that_is_called_in_training_mode():
    inner = chain((4,), layers.Dense(3), BN(name="norm"), dtype="float32")
    x = keras.Input((4,))
    (row,) = fold(keras.Model(x, inner(x, training=True)))[1]
    assert row.note == "it is in training mode"


@main_leg
def test_frozen_layers_called_in_training_mode_fold():
    """They normalize with moving statistics all the same."""
    x = keras.Input((4,))
    norm = BN(name="norm", trainable=False)
    model = set_weights(keras.Model(x, norm(layers.Dense(3, name="dense")(x), training=True)))
    folded, (row,) = fold(model)
    assert row.became == "dense"
    assert_same_outputs(folded, model, data(3, 4).astype("float32"), rtol=1e-5)


@main_leg
def test_a_model_without_normalizations_is_copied():
    model = chain((4,), layers.Dense(3), dtype="float32")
    folded, report = fold(model)
    assert folded is not model
    assert not report
    assert_same_outputs(folded, model, data(3, 4).astype("float32"))


# Bad input.


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = BN()

    def call(self, inputs):
        return self.norm(inputs)


class NotRebuilt(layers.Layer):
    def call(self, inputs):
        return inputs

    @classmethod
    def from_config(cls, config):
        raise TypeError("it needs more than a config")


def called(model):
    model(np.ones((2, 4), "float32"))
    return model


BAD = {
    "no_model": (lambda: 3, r"`model` must be a built Keras model\. Received: model='int'"),
    "layer": (lambda: layers.Dense(3, name="d"), r"built Keras model\. .*Dense 'd'"),
    "unbuilt": (
        lambda: keras.Sequential([BN()], name="s"),
        r"built Keras model\. .*Sequential 's'",
    ),
    "subclassed": (lambda: called(Subclassed()), "must be Functional or Sequential"),
    "config": (
        lambda: chain((4,), NotRebuilt(), dtype="float32"),
        "build the model from its config.*it needs more",
    ),
}


@pytest.mark.filterwarnings("ignore:.*`build\\(\\)` was called:UserWarning")
@pytest.mark.parametrize("make, message", BAD.values(), ids=BAD)
def test_rejects_models(make, message):
    model = make()
    with keras.saving.custom_object_scope({"NotRebuilt": NotRebuilt}):
        with pytest.raises(ValueError, match=f"^fold_batch_norm: .*{message}"):
            keras_norms.fold_batch_norm(model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name, place", [("dense", 0), ("dense", 1), ("norm", 1), ("norm", 2)])
def test_rejects_weights_that_are_not_finite(name, place, value):
    model = chain((4,), layers.Dense(3, name="dense"), BN(name="norm"), dtype="float32")
    weights = model.get_layer(name).get_weights()
    weights[place].flat[1] = value
    model.get_layer(name).set_weights(weights)
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"must be finite.*'{name}'"):
        keras_norms.fold_batch_norm(model)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rejects_what_does_not_fit_the_dtype():
    parts = layers.Dense(3, name="dense", dtype="float16"), BN(name="norm", dtype="float16")
    model = chain((4,), *parts, dtype="float16")
    gamma, *others = model.get_layer("norm").get_weights()
    model.get_layer("norm").set_weights([gamma + 1e6, *others])
    message = (
        "weights with BatchNormalization 'norm' folded into them must be finite.*Dense 'dense'"
    )
    with pytest.raises(ValueError, match=message):
        keras_norms.fold_batch_norm(model)
