"""Graphs of models, read from their configs and rewired."""

import pytest

from keras_norms.keras_api import keras
from keras_norms.models.graph_config import OUTPUT, copied, graph_of

layers = keras.layers


@pytest.fixture
def model():
    """a -> b -> c, d;  c + d -> sum, an output, as is b; d is called on a, too."""
    a = keras.Input((4,), name="a")
    b = layers.ReLU(name="b")(a)
    d = layers.Dense(4, name="d")
    total = layers.Add(name="sum")([layers.Dense(4, name="c")(b), d(b), d(a)])
    return keras.Model(a, {"sum": total, "b": b})


def graph(model):
    return graph_of(model, copied(model.get_config()))


def test_functional(model):
    of = graph(model)
    assert sorted(of.names) == ["a", "b", "c", "d", "sum"]
    assert {name: of.calls(name) for name in "bcd"} == {"b": 1, "c": 1, "d": 2}
    assert sorted(of.inputs("d")) == ["a", "b"]
    assert of.inputs("sum") == ["c", "d", "d"]
    assert sorted(of.consumers("a")) == ["b", "d"]
    assert [sorted(filter(None, of.consumers("b"))), OUTPUT in of.consumers("b")] == [
        ["c", "d"],
        True,
    ]
    assert of.consumers("sum") == [OUTPUT]


def test_remove(model):
    """All users of the layer get what it was given, outputs of the model too."""
    config = copied(model.get_config())
    of = graph_of(model, config)
    of.remove("b")
    assert sorted(of.consumers("a"), key=str) == sorted(["c", "d", "d", OUTPUT], key=str)
    rebuilt = type(model).from_config(config)
    assert sorted(layer.name for layer in rebuilt.layers) == ["a", "c", "d", "sum"]
    assert "b" in [layer.name for layer in model.layers]
    outputs = rebuilt.output
    assert set(outputs) == {"sum", "b"}


def test_sequential():
    model = keras.Sequential([keras.Input((4,)), layers.ReLU(name="b"), layers.Dense(2, name="c")])
    config = copied(model.get_config())
    of = graph_of(model, config)
    assert of.inputs("c") == ["b"]
    assert (of.consumers("b"), of.consumers("c")) == (["c"], [OUTPUT])
    of.layer_config("c")["use_bias"] = False
    of.remove("b")
    (dense,) = type(model).from_config(config).layers
    assert (dense.name, dense.use_bias) == ("c", False)


def test_others_have_none(model):
    assert graph_of(layers.Dense(3), {}) is None
    assert graph_of(keras.Model(), {"name": "subclassed"}) is None
