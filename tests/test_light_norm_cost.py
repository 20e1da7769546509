"""`light_norm_cost` and `keras-norms cost`: bytes that were counted by hand, shapes, bad input."""

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms import cli
from keras_norms.keras_api import keras
from keras_norms.models.light_norm_cost import Moved

layers = keras.layers
cost_of = keras_norms.light_norm_cost


def norm_of(*shape, layer=None):
    return keras.Sequential([keras.Input(shape), layer or layers.BatchNormalization(name="norm")])


def residual_block():
    """Two convolutions and a shortcut: three layers, of ours and of Keras, in a nested model."""
    inputs = keras.Input((8, 8, 32))
    x = layers.Conv2D(64, 3, 2, padding="same")(inputs)
    x = keras_norms.BatchNormalization(name="first")(x)
    x = layers.Conv2D(64, 3, padding="same")(layers.ReLU()(x))
    x = keras_norms.SyncBatchNormalization(name="second")(x)
    shortcut = layers.BatchNormalization(name="shortcut")(layers.Conv2D(64, 1, 2)(inputs))
    block = keras.Model(inputs, layers.Add()([x, shortcut]), name="block")
    outer = keras.Input((8, 8, 32))
    return keras.Model(outer, block(layers.BatchNormalization(name="stem")(outer)))


def test_the_passes_of_each_system():
    """2 instances of 3 positions of 32 channels: 192 values, of 4 bytes each."""
    cost = cost_of(norm_of(3, 32), 2)
    (row,) = cost.rows
    assert row[:4] == ("norm", 1, (2, 3, 32), 192)
    # A block of fp10_154 has 32 signs, 32 mantissas of 5 bits and an exponent of 5 bits: 197 bits;
    # one of bfloat16 has 32, 32 times 8 and 8: 296 bits. There are 6 blocks.
    x, dy = 6 * 197 / 8, 6 * 296 / 8
    assert row.forward == Moved(4 * 768, 3 * 768, 3 * 768, 3 * x)
    assert row.backward == Moved(5 * 768, 5 * 768, 4 * 768, x + 3 * dy)
    assert row.total == Moved(9 * 768, 8 * 768, 7 * 768, 4 * x + 3 * dy) == cost.total


@pytest.mark.parametrize(
    ("number_format", "block_size", "bits"),
    [
        ("fp10_154", None, 10),
        ("fp10_154", 4, 1 + 5 + 5 / 4),
        ("fp10_154", 32, 1 + 5 + 5 / 32),
        ("fp10_163", 16, 1 + 4 + 6 / 16),
        ("fp12_156", None, 12),
        ("fp12_165", None, 12),
        ("fp15_168", 32, 1 + 9 + 6 / 32),
        ("fp8_152", None, 8),
        ("fp8_143", None, 8),
        ("float16", None, 16),
        ("bfloat16", 8, 1 + 8 + 8 / 8),
        (None, 8, 32),
    ],
)
def test_the_bits_of_an_element(number_format, block_size, bits):
    options = dict(number_format=number_format, gradient_format=None, block_size=block_size)
    cost = cost_of(norm_of(64), 16, **options)
    assert cost.forward.light_norm == 3 * 16 * 64 * bits / 8
    assert cost.backward.light_norm == 16 * 64 * (bits + 3 * 32) / 8


def test_a_last_block_that_is_smaller_has_an_exponent_too():
    """5 channels in blocks of 4: 5 times 6 bits, and 2 exponents of 5."""
    cost = cost_of(norm_of(5), 8, block_size=4)
    assert cost.forward.light_norm == 3 * (5 * 6 + 2 * 5)


def test_blocks_lie_along_the_channel_axis():
    layer = keras_norms.BatchNormalization(axis=1)
    cost = cost_of(norm_of(4, 6, layer=layer), 1, block_size=4)
    assert cost.forward.light_norm == 3 * 6 * (4 * 6 + 5) / 8


def test_a_narrow_compute_dtype_is_that_of_the_other_systems():
    layer = keras_norms.BatchNormalization(dtype="mixed_float16")
    assert cost_of(norm_of(10, layer=layer), 3).total.two_pass == 9 * 30 * 2


def test_layers_of_nested_models_are_counted():
    cost = cost_of(residual_block(), 4)
    found = {row.layer: (row.shape, row.total.one_pass) for row in cost.rows}
    inner = (4, 4, 4, 64), 8 * 4 * 4 * 4 * 64 * 4
    outer = (4, 8, 8, 32), 8 * 4 * 8 * 8 * 32 * 4
    assert found == {"stem": outer, "first": inner, "second": inner, "shortcut": inner}
    for name in Moved._fields:
        whole = sum(getattr(row.forward, name) + getattr(row.backward, name) for row in cost.rows)
        assert getattr(cost.total, name) == whole


def test_every_layer_of_the_family_is_counted():
    kinds = "BatchNormalization", "RangeBatchNormalization", "RegularizedBatchNormalization"
    model = keras.Sequential([keras.Input((4,))])
    for kind in kinds:
        model.add(getattr(keras_norms, kind)(name=kind))
    assert tuple(row.layer for row in cost_of(model).rows) == kinds


def test_a_shared_layer_counts_once_a_call():
    inputs, norm = keras.Input((6,)), layers.BatchNormalization()
    model = keras.Model(inputs, norm(layers.Dense(6)(norm(inputs))))
    (row,) = cost_of(model, 5).rows
    assert (row.calls, row.elements, row.forward.one_pass) == (2, 60, 3 * 60 * 4)
    assert "5×6, 2 calls" in cost_of(model, 5).table()


@pytest.mark.parametrize("kind", [layers.BatchNormalization, keras_norms.BatchNormalization])
@pytest.mark.parametrize("is_nested", [False, True])
def test_time_distributed_layers_count_all_steps(kind, is_nested):
    wrapped = keras.Sequential([layers.Dense(8), kind()]) if is_nested else kind()
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, layers.TimeDistributed(wrapped)(inputs))
    (row,) = cost_of(model, 3).rows
    assert row.elements == 3 * 5 * 8


def test_the_batch_is_that_of_the_model_or_32():
    assert cost_of(norm_of(4)).rows[0].shape == (32, 4)
    inputs = keras.Input(batch_shape=(6, 4))
    fixed = keras.Model(inputs, layers.BatchNormalization()(inputs))
    assert cost_of(fixed).rows[0].shape == (6, 4)


def test_unknown_sizes_are_given():
    words = keras.Input((None,), dtype="int32")
    images = keras.Input((None, None, 3))
    x = layers.BatchNormalization(name="text")(layers.Embedding(9, 4)(words))
    y = layers.BatchNormalization(name="image")(images)
    pooled = [layers.GlobalAveragePooling1D()(x), layers.GlobalAveragePooling2D()(y)]
    model = keras.Model([words, images], layers.Concatenate()(pooled))
    found = cost_of(model, 2, input_shape=[(7,), (5, 6, 3)])
    assert {row.layer: row.shape for row in found.rows} == {
        "text": (2, 7, 4),
        "image": (2, 5, 6, 3),
    }
    rule = r"^light_norm_cost: `input_shape` must be given for a model whose inputs have unknown"
    with pytest.raises(ValueError, match=rule):
        cost_of(model)
    with pytest.raises(ValueError, match="a shape for each input of the model"):
        cost_of(model, input_shape=[(7,)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)


def test_a_subclassed_model_is_told_its_inputs():
    model = Subclassed()
    with pytest.raises(ValueError, match=r"^light_norm_cost: `model` must be a built Keras model"):
        cost_of(model, input_shape=(4,))
    model(tf.zeros((1, 4)))
    assert cost_of(model, 3, input_shape=(4,)).rows[0].shape == (3, 4)
    with pytest.raises(ValueError, match="the model must take inputs of these shapes"):
        cost_of(model, 3, input_shape=(5,))


def test_changes_no_state():
    model = norm_of(4)
    before = model.get_weights()
    cost_of(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(batch_size=0),
            r"`batch_size` must be a positive int or None. Received: batch_size=0",
        ),
        (dict(block_size=2.5), r"`block_size` must be a positive int or None. Received: block"),
        (dict(number_format="fp9"), r"`number_format` must be .* 'fp10_154', .* Received: .*'fp9'"),
        (dict(gradient_format=16), r"`gradient_format` must be .* Received: gradient_format=16"),
        (dict(input_shape=(-1,)), r"`input_shape` must be a tuple of positive ints"),
        (dict(input_shape=3), r"`input_shape` must be a tuple of positive ints"),
    ],
)
def test_rejects_arguments(options, message):
    with pytest.raises(ValueError, match=f"^light_norm_cost: {message}"):
        cost_of(norm_of(4), **options)


def test_rejects_models():
    with pytest.raises(ValueError, match="must have a batch normalization, of Keras or of this"):
        cost_of(keras.Sequential([keras.Input((2,)), layers.Dense(2)]))
    with pytest.raises(ValueError, match="`model` must be a built Keras model. Received: model=3"):
        cost_of(3)


# The command.


@pytest.fixture
def path(tmp_path):
    norm_of(8, 8, 32, layer=keras_norms.BatchNormalization(name="norm")).save(
        tmp_path / "model.keras"
    )
    return str(tmp_path / "model.keras")


def test_the_command_prints_a_table(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["cost", path, "--batch-size", "1000"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    # 2,048,000 values: 9, 8 and 7 passes of 4 bytes.
    assert "│ norm │ 1000×8×8×32 │ 73.73 │ 65.54 │ 57.34 │ 13.41 │" in text
    assert "│ share of two-pass │ │ 100.0% │ 88.9% │ 77.8% │ 18.2% │" in text


def test_the_command_prints_json(path, capsys):
    options = ["--number-format", "fp8_143", "--gradient-format", "none", "--block-size", "0"]
    assert cli.main(["cost", path, "--batch-size", "2", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    passes = {
        "forward_bytes": {
            "two_pass": 65536,
            "one_pass": 49152,
            "range": 49152,
            "light_norm": 12288,
        },
        "backward_bytes": {
            "two_pass": 81920,
            "one_pass": 81920,
            "range": 65536,
            "light_norm": 53248,
        },
        "total_bytes": {
            "two_pass": 147456,
            "one_pass": 131072,
            "range": 114688,
            "light_norm": 65536,
        },
    }
    row = {"layer": "norm", "calls": 1, "shape": [2, 8, 8, 32], "elements": 4096, **passes}
    given = {"number_format": "fp8_143", "gradient_format": None, "block_size": None}
    assert found == {**given, "layers": [row], **passes}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.keras"], "there is no model nothing.keras."),
        (
            ["{path}", "--number-format", "fp9"],
            "light_norm_cost: `number_format` must be a FloatFormat",
        ),
        (["{path}", "--batch-size", "-1"], "light_norm_cost: `batch_size` must be a positive int"),
        (["{path}", "--input-shape", "4"], "light_norm_cost: the model must take inputs of these"),
    ],
)
def test_the_command_says_one_sentence_about_bad_input(path, arguments, message, capsys):
    assert cli.main(["cost", *(argument.format(path=path) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"keras-norms cost: {message}") and error.count("\n") == 1
