"""`initialize_statistics`: what the layers get, in which order, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras

NORM = keras_norms.BatchlessNormalization


@pytest.fixture
def x(rng):
    return rng.normal([3.0, -5.0, 0.5], [2.0, 0.1, 7.0], (45, 3)).astype(np.float32)


def branching():
    """Two layers side by side, one after both, and one at the end."""
    inputs = keras.Input((3,))
    left = NORM(name="left")(keras.layers.Dense(4, activation="softplus", name="a")(inputs))
    right = NORM(name="right", parametrization="inv")(keras.layers.Dense(4, name="b")(inputs))
    both = keras.layers.Add()([left, keras.layers.Dense(4, name="c")(right)])
    middle = NORM(name="middle", parametrization="abs")(both)
    outputs = NORM(name="last")(keras.layers.Dense(2, name="d")(middle))
    return keras.Model(inputs, outputs)


def outputs_of(model, x):
    """Of every Batchless layer, in inference."""
    layers = [layer for layer in model.layers if isinstance(layer, NORM)]
    probe = keras.Model(model.input, [layer.output for layer in layers])
    values = probe(x, training=False)
    return {layer.name: np.asarray(v) for layer, v in zip(layers, values, strict=True)}


def test_every_layer_sees_mean_0_and_standard_deviation_1(x):
    model = branching()
    strata = keras_norms.initialize_statistics(model, x, batch_size=8, verbose=0)
    assert [sorted(layer.name for layer in s) for s in strata] == [
        ["left", "right"],
        ["middle"],
        ["last"],
    ]
    for name, value in outputs_of(model, x).items():
        np.testing.assert_allclose(value.mean(0), 0.0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(value.std(0), 1.0, rtol=1e-3, err_msg=name)


def test_statistics_do_not_depend_on_the_batch_size(x):
    """Far from 0, with a short last batch."""
    x = x + np.float32(1e4)
    exact = x.astype(np.float64)
    for batch_size in (1, 7, 100):
        model = keras.Sequential([keras.Input((3,)), NORM(parametrization="inv")])
        keras_norms.initialize_statistics(model, x, batch_size=batch_size, verbose=0)
        found = model.layers[0].statistics
        np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-7)
        np.testing.assert_allclose(found.stddev, exact.std(0), rtol=1e-6)


class Subclassed(keras.Model):
    """Layers inside layers, one of them called twice; nothing is built beforehand."""

    def __init__(self):
        super().__init__()
        self.block = keras.Sequential([keras.layers.Dense(3), NORM(name="inner")])
        self.shared = NORM(name="shared")

    def call(self, inputs):
        return self.shared(self.block(self.shared(inputs)))


def test_nested_and_shared_layers(x):
    model = Subclassed()
    strata = keras_norms.initialize_statistics(model, x, verbose=0)
    assert [[layer.name for layer in s] for s in strata] == [["shared"], ["inner"]]
    np.testing.assert_allclose(np.std(model.block(model.shared(x)), 0), 1.0, rtol=1e-3)


def test_a_model_that_is_not_built(x):
    model = keras.Sequential([NORM()])
    keras_norms.initialize_statistics(model, x, verbose=0)
    np.testing.assert_allclose(model.layers[0].statistics.mean, x.mean(0), rtol=1e-5)


def test_masked_positions_are_left_out(x):
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.Masking(-1.0), NORM()])
    sequences = np.stack([x, np.full_like(x, -1.0)], 1)
    keras_norms.initialize_statistics(model, sequences, verbose=0)
    np.testing.assert_allclose(model.layers[-1].statistics.mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.layers[-1].statistics.stddev, x.std(0), rtol=1e-5)


def test_every_kind_of_data(x):
    labels = np.zeros(len(x))
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(9)
    kinds = {
        "array": (x, {}),
        "tensor": (tf.constant(x), {}),
        "dataset": (dataset, {}),
        "endless": (dataset.repeat(), {"steps": 5}),
        "unknown": (dataset.filter(lambda *batch: True), {}),
    }

    class Again:
        def __iter__(self):
            return iter([(x[:20], labels[:20]), (x[20:], labels[20:])])

    kinds["batches"] = (Again(), {})
    for name, (data, options) in kinds.items():
        model = keras.Sequential([keras.Input((3,)), NORM()])
        keras_norms.initialize_statistics(model, data, verbose=0, **options)
        np.testing.assert_allclose(
            model.layers[0].statistics.mean, x.mean(0), rtol=1e-5, err_msg=name
        )


def test_several_inputs(x):
    first, second = keras.Input((3,), name="p"), keras.Input((3,), name="q")
    both = keras.layers.Concatenate()([first, second])
    model = keras.Model({"p": first, "q": second}, NORM(name="norm")(both))
    keras_norms.initialize_statistics(model, {"p": x, "q": 2.0 * x}, verbose=0)
    expected = np.concatenate([x.mean(0), 2.0 * x.mean(0)])
    np.testing.assert_allclose(model.get_layer("norm").statistics.mean, expected, rtol=1e-5)


def test_a_constant_channel_gets_standard_deviation_1():
    model = keras.Sequential([keras.Input((2,)), NORM()])
    keras_norms.initialize_statistics(model, np.array([[5.0, 1.0], [5.0, 3.0]]), verbose=0)
    np.testing.assert_allclose(model.layers[0].statistics.stddev, [1.0, 1.0])
    np.testing.assert_allclose(model.layers[0].statistics.mean, [5.0, 2.0])


def test_a_progress_bar_counts_batches(x, capsys):
    keras_norms.initialize_statistics(branching(), x, batch_size=15)
    assert "9/9" in capsys.readouterr().out


def states(model):
    return [np.asarray(tf.convert_to_tensor(w)) for w in model.weights]


class Once:
    """Looks like a list of batches, but the second who reads finds it empty."""

    def __init__(self, batches):
        self.iterator = iter(batches)

    def __iter__(self):
        return self.iterator


def once_as_dataset(batches):
    iterator = iter(batches)
    spec = tf.TensorSpec((None, 3), tf.float32)
    return tf.data.Dataset.from_generator(lambda: iterator, output_signature=spec)


BAD_DATA = {
    "empty": (lambda x: x[:0], "`data` must hold at least one instance"),
    "no_batch": (lambda x: tf.data.Dataset.from_tensors(x).take(0), "at least one batch"),
    "nan": (lambda x: np.where(x > 4.0, np.nan, x), "`data` must lead to finite statistics"),
    "infinite": (lambda x: np.where(x > 4.0, np.inf, x), "`data` must lead to finite statistics"),
    "generator": (lambda x: (b for b in [x]), "must not be an iterator or a generator"),
    "once": (lambda x: Once([x[:20], x[20:]]), "which can be read only once"),
    "generator_dataset": (
        lambda x: once_as_dataset([x[:20], x[20:]]),
        "the same batches each time",
    ),
    "endless": (
        lambda x: tf.data.Dataset.from_tensors(x).repeat(),
        "infinite `data` needs `steps`",
    ),
    "number": (lambda x: 3.0, "must be arrays or an iterable of batches. Received: float"),
    "tuple": (lambda x: (x, x), "the inputs alone, several of them in a list or a dict"),
    "single": (lambda x: x[:1], "at least two values for every channel of layer"),
    "lengths": (lambda x: [x, x[:5]], "arrays must have the same length"),
}


@pytest.fixture(scope="module")
def initialized():
    """One for all kinds of bad data, which leave it unchanged."""
    model = branching()
    x = np.random.default_rng(3).normal(size=(45, 3)).astype(np.float32)
    keras_norms.initialize_statistics(model, x, verbose=0)
    return model


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_leaves_the_model_unchanged(initialized, x, kind):
    make, message = BAD_DATA[kind]
    model, before = initialized, states(initialized)
    with pytest.raises(ValueError, match=f"initialize_statistics: .*{message}"):
        keras_norms.initialize_statistics(model, make(x), verbose=0)
    for was, now in zip(before, states(model), strict=True):
        np.testing.assert_array_equal(was, now)


def test_a_late_failure_undoes_earlier_strata(x):
    """The first stratum is finite, what the second sees is not."""
    inputs = keras.Input((3,))
    first = NORM(name="first")(inputs)
    outputs = NORM(name="second")(first / (first - first))
    model = keras.Model(inputs, outputs)
    before = states(model)
    with pytest.raises(ValueError, match="in channel 0 of layer 'second'"):
        keras_norms.initialize_statistics(model, x, verbose=0)
    for was, now in zip(before, states(model), strict=True):
        np.testing.assert_array_equal(was, now)


def test_rejects_a_model_without_batchless_layers(x):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="plain")
    with pytest.raises(ValueError, match="must run at least one .* Received: Sequential 'plain'"):
        keras_norms.initialize_statistics(model, x, verbose=0)


def test_rejects_a_layer_inside_a_loop(x):
    class Looping(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = NORM(name="hidden")

        def build(self, shape):
            self.norm.build(shape)
            self.built = True

        def call(self, inputs):
            return tf.map_fn(lambda row: self.norm(row[None])[0], inputs)

    model = keras.Sequential([keras.Input((3,)), Looping()])
    with pytest.raises(ValueError, match="layer 'hidden' runs inside a tf.cond, a loop or"):
        keras_norms.initialize_statistics(model, x, verbose=0)


@pytest.mark.parametrize("model", [None, 3, "model"])
def test_rejects_other_objects_than_models(x, model):
    with pytest.raises(ValueError, match="initialize_statistics: `model` must be a Keras model"):
        keras_norms.initialize_statistics(model, x)


@pytest.mark.parametrize("options", [dict(batch_size=0), dict(steps=-1)])
def test_rejects_bad_arguments(x, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"initialize_statistics: `{name}` must be"):
        keras_norms.initialize_statistics(branching(), x, verbose=0, **options)
