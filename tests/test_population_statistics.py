"""`recompute_statistics`: what each layer stores, what it leaves alone, and what it refuses."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras, on_replicas
from tests.oracles import moments
from tests.range_oracle import CONSTANTS, by_position, chunks_of
from tests.strategies import mirrored

recompute = keras_norms.recompute_statistics
EPSILON = 0.01
PADDING = -1.0
MOMENTS = {
    "batch": keras_norms.BatchNormalization,
    "stock": keras.layers.BatchNormalization,
    "renorm": keras_norms.BatchRenormalization,
    "regularized": keras_norms.RegularizedBatchNormalization,
    "sync": keras_norms.SyncBatchNormalization,
}
# Both orders in both dtypes where layers are most used; one of each for the others.
CASES = [
    *itertools.product(["batch", "stock"], ["float32", "float64"], [False, True]),
    *(
        (kind, dtype, sequential)
        for kind in MOMENTS
        if kind not in ("batch", "stock")
        for dtype, sequential in (("float32", True), ("float64", False))
    ),
]
EACH_ORDER = pytest.mark.parametrize("sequential", [False, True])
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
# Of later layers, whose inputs are themselves computed in this dtype.
LATER = {"float32": 1e-5, "float64": 1e-12}


def values(variable):
    return np.asarray(tf.convert_to_tensor(variable))


def state(model):
    """Every number of a model, seeds and metrics too."""
    more = (
        model.metrics_variables if IS_KERAS_3 else [v for m in model.metrics for v in m.variables]
    )
    return [values(v).copy() for v in (*(model.variables if IS_KERAS_3 else model.weights), *more)]


def assert_same_bits(model, before):
    for was, now in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(was, now)


def stored(layer):
    """Mean and variance that a layer has."""
    mean = values(layer.moving_mean).astype(np.float64)
    if hasattr(layer, "moving_variance"):
        return mean, values(layer.moving_variance).astype(np.float64)
    return mean, values(layer.moving_stddev).astype(np.float64) ** 2 - layer.epsilon


def flat_moments(x, mask=None):
    _, mean, variance = moments(x, mask=mask)
    return np.ravel(mean), np.ravel(variance)


def assert_statistics(layer, expected, tolerance):
    """A mean is compared on the scale of its standard deviation too: it may be near 0."""
    mean, variance = stored(layer)
    scale = np.sqrt(np.max(expected[1]))
    np.testing.assert_allclose(mean, expected[0], rtol=tolerance, atol=tolerance * scale)
    np.testing.assert_allclose(variance, expected[1], rtol=tolerance)


def batches_of(x, size):
    return [x[i : i + size] for i in range(0, len(x), size)]


def chain(layer, dtype="float32", shape=(3,), rng=None):
    """A normalization, a dense layer that keeps means away from 0, and another one."""
    rng = rng or np.random.default_rng(3)
    common = dict(epsilon=EPSILON, dtype=dtype)
    layers = [
        layer(name="first", **common),
        keras.layers.Dense(4, "softplus", dtype=dtype, name="dense"),
        keras.layers.Dropout(0.5, dtype=dtype, name="dropout"),
        layer(name="last", **common),
    ]
    if len(shape) > 1:
        layers.insert(0, keras.layers.Masking(PADDING, dtype=dtype))
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *layers])
    for name in ("first", "last"):
        found = model.get_layer(name)
        for weight in (found.gamma, found.beta):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


def after_first(model, x, mean, variance):
    """What the last layer of a `chain` receives, if the first one has these statistics."""
    first, dense = model.get_layer("first"), model.get_layer("dense")
    gamma, beta = (values(w).astype(np.float64) for w in (first.gamma, first.beta))
    kernel, bias = (w.astype(np.float64) for w in dense.get_weights())
    y = gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta
    return np.logaddexp(0.0, y @ kernel + bias)


@pytest.fixture
def data(rng):
    return rng.normal([3.0, -5.0, 0.5], [2.0, 0.1, 7.0], (45, 3))


@pytest.mark.parametrize(("kind", "dtype", "sequential"), CASES)
def test_each_layer_stores_the_statistics_of_all_it_receives(data, kind, dtype, sequential):
    """With a short last batch. In one pass layers normalize by the batch, otherwise by all."""
    x = data.astype(dtype)
    exact = x.astype(np.float64)
    model = chain(MOMENTS[kind], dtype)
    found = recompute(model, x, batch_size=8, sequential=sequential, verbose=0)
    assert_statistics(model.get_layer("first"), flat_moments(exact), TOLERANCE[dtype])
    by = [exact] if sequential else batches_of(exact, 8)
    seen = np.concatenate([after_first(model, part, *flat_moments(part)) for part in by])
    assert_statistics(model.get_layer("last"), flat_moments(seen), LATER[dtype])
    assert list(found) == ["first", "last"] and found["first"].count == len(x)


def test_the_gate_of_an_adaptive_layer_stays(data):
    """It is a record of training. Here half of the input passes as it is, as in inference."""
    model = chain(keras_norms.AdaptiveBatchNormalization, "float64")
    layer = model.get_layer("first")
    layer.moving_open_share.assign(0.5)
    layer.moving_sample_mean.assign(7.0)
    recompute(model, data, batch_size=8, sequential=True, verbose=0)
    assert_statistics(layer, flat_moments(data), 1e-12)
    assert values(layer.moving_open_share) == 0.5 and values(layer.moving_sample_mean) == 7.0
    seen = model.get_layer("dense")(layer(data))
    assert_statistics(model.get_layer("last"), flat_moments(seen), 1e-12)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("batch", "float32"), ("stock", "float32"), ("renorm", "float64")]
)
def test_masked_positions_are_left_out(data, kind, dtype):
    x = data.reshape(9, 5, 3).astype(dtype)
    lengths = [5, 2, 0, 4, 1, 5, 3, 0, 0]  # The last batch is all padding.
    mask = np.arange(5) < np.array(lengths)[:, None]
    x[~mask] = PADDING
    model = chain(MOMENTS[kind], dtype, (5, 3))
    found = recompute(model, x, batch_size=7, verbose=0)
    assert_statistics(model.get_layer("first"), flat_moments(x, mask), TOLERANCE[dtype])
    part, of = x[:7].astype(np.float64), mask[:7]
    seen = after_first(model, part, *flat_moments(part, of))
    assert_statistics(model.get_layer("last"), flat_moments(seen, of), LATER[dtype])
    assert found["last"].count == mask.sum()


@pytest.mark.parametrize("kind", ["range", "light"])
def test_ranges_are_averaged_over_the_chunks_of_all_batches(data, kind):
    name = "lightnorm" if kind == "light" else "calibrated"
    options = dict(num_chunks=3, epsilon=EPSILON, range_constant=name)
    if kind == "light":
        options |= dict(number_format=None, gradient_format=None, block_size=None)
        layer = keras_norms.LightNormalization(**options)
    else:
        layer = keras_norms.RangeBatchNormalization(**options)
    x = data.astype(np.float32).reshape(15, 3, 3)
    model = keras.Sequential([keras.Input((3, 3)), layer])
    recompute(model, x, batch_size=6, verbose=0)
    deviations = []
    for batch in batches_of(x, 6):
        rows = by_position(batch.astype(np.float64))
        for chunk in chunks_of(len(rows), 3):
            deviations.append(CONSTANTS[name](len(chunk)) * np.ptp(rows[chunk], axis=0))
    expected = np.mean(deviations, 0) + EPSILON
    np.testing.assert_allclose(values(layer.moving_scale), expected, rtol=5e-6)
    mean, _ = flat_moments(x)
    np.testing.assert_allclose(values(layer.moving_mean), mean, rtol=1e-6)


def test_light_normalization_takes_its_inputs_as_rounded(data):
    layer = keras_norms.LightNormalization(range_constant=None, block_size=None)
    model = keras.Sequential([keras.Input((3,)), layer])
    recompute(model, data.astype(np.float32), verbose=0)
    rounded = keras_norms.number_formats.quantize(data.astype(np.float32), "fp10_154").numpy()
    assert_statistics(layer, flat_moments(rounded), 1e-6)


def test_the_corrected_variance_is_corrected_for_all_data(data):
    layer = keras_norms.BatchNormalization(unbiased_moving_variance=True, dtype="float64")
    model = keras.Sequential([keras.Input((3,), dtype="float64"), layer])
    recompute(model, data, batch_size=7, verbose=0)
    np.testing.assert_allclose(values(layer.moving_variance), data.var(0, ddof=1), rtol=1e-12)


def test_what_guards_a_layer_against_single_batches_does_not_act(data):
    options = dict(max_update=0.1, virtual_batch_size=4, skip_nonfinite_updates=True, momentum=None)
    layer = keras_norms.BatchNormalization(dtype="float64", **options)
    model = keras.Sequential([keras.Input((3,), dtype="float64"), layer])
    recompute(model, data, verbose=0)
    assert_statistics(layer, flat_moments(data), 1e-12)


@pytest.mark.parametrize("kind", ["batch", "stock"])
def test_channels_on_other_axes(rng, kind):
    x = rng.normal(2.0, 3.0, (10, 3, 4, 2)).astype(np.float32)
    layer = MOMENTS[kind](axis=1)
    model = keras.Sequential([keras.Input((3, 4, 2)), layer])
    recompute(model, x, batch_size=4, verbose=0)
    assert_statistics(layer, (x.mean((0, 2, 3), float), x.var((0, 2, 3), float)), 1e-6)


@pytest.mark.keras_2  # Keras 3 has no `renorm`.
def test_stock_layers_with_renorm_get_all_their_statistics(data):
    layer = keras.layers.BatchNormalization(renorm=True, epsilon=EPSILON)
    model = keras.Sequential([keras.Input((3,)), layer])
    x = data.astype(np.float32)
    recompute(model, x, batch_size=8, verbose=0)
    mean, variance = flat_moments(x)
    for name in ("moving_mean", "renorm_mean"):
        np.testing.assert_allclose(values(getattr(layer, name)), mean, rtol=1e-6)
    for name in ("moving_stddev", "renorm_stddev"):
        stddev = np.sqrt(variance + EPSILON)
        np.testing.assert_allclose(values(getattr(layer, name)), stddev, rtol=1e-6)
    np.testing.assert_allclose(values(layer.moving_variance), variance, rtol=1e-6)


def branching(layer):
    """Two layers side by side, one after both, and one at the end."""
    inputs = keras.Input((3,))
    left = layer(name="left")(keras.layers.Dense(4, activation="softplus", name="a")(inputs))
    right = layer(name="right")(keras.layers.Dense(4, name="b")(inputs))
    both = keras.layers.Add()([left, keras.layers.Dense(4, name="c")(right)])
    middle = layer(name="middle")(both)
    outputs = layer(name="end")(keras.layers.Dense(2, name="d")(middle))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("layer", [MOMENTS["batch"], MOMENTS["stock"]])
def test_sequential_statistics_are_those_that_inference_sees(data, layer):
    x = data.astype(np.float32)
    model = branching(layer)
    layers = [model.get_layer(name) for name in ("left", "right", "middle", "end")]
    inputs = keras.Model(model.input, [layer.input for layer in layers])
    for batch_size in (45, 7):
        recompute(model, x, batch_size=batch_size, sequential=True, verbose=0)
        for of, seen in zip(layers, map(np.asarray, inputs(x, training=False)), strict=True):
            np.testing.assert_allclose(stored(of)[0], seen.mean(0, float), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(stored(of)[1], seen.var(0, float), rtol=1e-5)


def test_layers_side_by_side_share_a_pass(data, capsys):
    recompute(branching(MOMENTS["batch"]), data, batch_size=15, sequential=True)
    assert "9/9" in capsys.readouterr().out


class Subclassed(keras.Model):
    """Layers inside layers, one of them called twice, with inputs in a dict."""

    def __init__(self):
        super().__init__()
        norm = keras_norms.BatchNormalization
        inner = keras.Sequential([keras.layers.Dense(3), norm(name="inner")])
        self.block = keras.Sequential([inner, keras.layers.ReLU()])
        self.shared = norm(name="shared", epsilon=EPSILON)

    def call(self, inputs, training=False):
        x = self.shared(inputs["x"], training=training)
        return self.block(self.shared(x + inputs["y"], training=training), training=training)


@EACH_ORDER
def test_nested_and_shared_layers(data, sequential):
    """A layer that is called twice has the statistics of both inputs."""
    inputs = {"x": data.astype(np.float32), "y": data[::-1].astype(np.float32) ** 2}
    model = Subclassed()
    model({name: value[:2] for name, value in inputs.items()})
    found = recompute(model, inputs, batch_size=100, sequential=sequential, verbose=0)
    x = inputs["x"].astype(np.float64)
    second = (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON) + inputs["y"]
    both = np.concatenate([x, second])
    assert_statistics(model.shared, flat_moments(both), 1e-5)
    assert found["shared"].count == 2 * len(x) and found["inner"].count == len(x)


def test_every_kind_of_data(data):
    x = data.astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(9)
    batches = [(part, np.zeros(len(part))) for part in batches_of(x, 9)]

    class Sequence(keras.utils.Sequence):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return batches[index]

    def endless():
        while True:
            yield from batches

    kinds = {
        "array": x,
        "tensor": tf.constant(x),
        "dataset": dataset,
        "endless dataset": dataset.repeat(),
        "unknown size": dataset.filter(lambda *batch: True),
        "generator": (batch for batch in batches),
        "endless generator": endless(),
        "sequence": Sequence(),
    }
    for name, kind in kinds.items():
        model = keras.Sequential([keras.Input((3,)), keras_norms.BatchNormalization()])
        recompute(model, kind, 5, batch_size=9, verbose=0)
        assert_statistics(model.layers[-1], flat_moments(x), 1e-6), name


def test_steps_limit_the_batches(data):
    read = []

    def batches():
        for part in batches_of(data, 9):
            read.append(part)
            yield part

    model = keras.Sequential([keras.Input((3,)), keras_norms.BatchNormalization(dtype="float64")])
    recompute(model, batches(), steps=2, verbose=0)
    assert len(read) == 2
    assert_statistics(model.layers[-1], flat_moments(data[:18]), 1e-6)


@pytest.mark.parametrize("kind", ["batch", "stock"])
def test_replicas_have_the_statistics_of_all_data(data, kind):
    x = data[:40].astype(np.float32)
    with mirrored(4).scope():
        model = chain(MOMENTS[kind])
    for replica, one in enumerate(on_replicas(model.get_layer("first").moving_mean)):
        one.assign_add([float(replica)] * 3)
    recompute(model, x, batch_size=16, sequential=True, verbose=0)
    first = flat_moments(x)
    last = flat_moments(after_first(model, x.astype(np.float64), *first))
    for name, expected in (("first", first), ("last", last)):
        layer = model.get_layer(name)
        for variable, value in zip(
            (layer.moving_mean, layer.moving_variance), expected, strict=True
        ):
            on_each = on_replicas(variable)
            assert len(on_each) == 4
            for one in on_each:
                np.testing.assert_allclose(one, value, rtol=2e-6, atol=1e-7)


def test_only_moving_statistics_change(data):
    """No step is counted, nothing is dropped, and no metric or seed moves."""
    model = chain(keras_norms.BatchRenormalization)
    model.compile("sgd", "mse", metrics=["mae"])
    x = data.astype(np.float32)
    model.fit(x, np.zeros((len(x), 4)), verbose=0)
    names = "moving_mean", "moving_stddev"
    moving = {id(getattr(model.get_layer(n), name)) for n in ("first", "last") for name in names}
    kept = [w for w in model.weights if id(w) not in moving]
    before, whole = [values(w) for w in kept], state(model)
    recompute(model, x, verbose=0)
    for was, now in zip(before, kept, strict=True):
        np.testing.assert_array_equal(was, values(now))
    differ = sum((a != b).any() for a, b in zip(whole, state(model), strict=True))
    assert differ == 4
    assert int(values(model.get_layer("first").step)) == 2


def test_frozen_layers_keep_their_statistics_and_normalize_with_them(data):
    model = chain(keras_norms.BatchNormalization, "float64")
    model.get_layer("first").trainable = False
    before = stored(model.get_layer("first"))
    assert list(recompute(model, data, batch_size=8, verbose=0)) == ["last"]
    np.testing.assert_array_equal(stored(model.get_layer("first")), before)
    seen = after_first(model, data, *before)
    assert_statistics(model.get_layer("last"), flat_moments(seen), 1e-12)


def test_reports_how_far_the_statistics_moved():
    model = keras.Sequential([keras.Input((2,)), keras_norms.BatchNormalization(name="norm")])
    model.layers[-1].moving_variance.assign([4.0, 5.0])
    x = np.array([[1.0, 1.0], [5.0, 7.0]])  # Means 3 and 4, standard deviations 2 and 3.
    found = recompute(model, x, verbose=0)["norm"]
    assert found.count == 2
    assert found.mean_shift == pytest.approx(5.0 / 3.0, rel=1e-6)
    assert found.stddev_shift == pytest.approx((3.0 - 5.0**0.5) / 3.0, rel=1e-6)


class WithAnUnusedLayer(keras.Model):
    def __init__(self):
        super().__init__()
        self.used = keras_norms.BatchNormalization(name="used")
        self.unused = keras.layers.BatchNormalization(name="unused")

    def build(self, shape):
        self.used.build(shape)
        self.unused.build(shape)
        self.built = True

    def call(self, inputs, training=False):
        return self.used(inputs, training=training)


@EACH_ORDER
def test_a_layer_that_the_data_does_not_reach_is_warned_of(data, sequential):
    model = WithAnUnusedLayer()
    model.build((None, 3))
    model.unused.moving_mean.assign([1.0, 2.0, 3.0])
    with pytest.warns(UserWarning, match="did not reach layer 'unused', which keeps"):
        found = recompute(model, data, sequential=sequential, verbose=0)
    assert list(found) == ["used"]
    np.testing.assert_array_equal(values(model.unused.moving_mean), [1.0, 2.0, 3.0])


# What breaks off.


@pytest.fixture(scope="module")
def trained():
    """A model with a state of its own in every place, for all that must leave it unchanged."""
    model = chain(keras_norms.BatchRenormalization)
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(np.random.default_rng(2).normal(size=(32, 3)), np.zeros((32, 4)), verbose=0)
    return model


class Breaking:
    """Batches, the last of which cannot be read from some reading on."""

    def __init__(self, batches, error, readings):
        self.batches, self.error, self.readings = batches, error, readings

    def __iter__(self):
        self.readings -= 1
        yield from self.batches[:-1]
        if self.readings < 0:
            raise self.error
        yield self.batches[-1]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(("sequential", "readings"), [(False, 0), (True, 2), (True, 3)])
def test_what_is_broken_off_leaves_the_model_bit_by_bit(trained, data, error, sequential, readings):
    """Sequential data is counted, and then read once for each layer."""
    before = state(trained)
    batches = Breaking(batches_of(data.astype(np.float32), 9), error, readings)
    with pytest.raises(type(error)):
        recompute(trained, batches, sequential=sequential, verbose=0)
    assert_same_bits(trained, before)


def test_an_interruption_while_statistics_are_assigned(trained, data, monkeypatch):
    from keras_norms.models import population_statistics as module

    before, count = state(trained), itertools.count()
    store = module._Target.store

    def interrupted(target, parts):
        if next(count) == 1:
            raise KeyboardInterrupt
        return store(target, parts)

    monkeypatch.setattr(module._Target, "store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recompute(trained, data.astype(np.float32), verbose=0)
    assert_same_bits(trained, before)


def test_an_error_that_is_kept_does_not_restore_twice(trained, data):
    """What happens to the model later is not undone when the traceback is let go."""
    x = np.where(np.arange(45)[:, None] == 30, np.nan, data).astype(np.float32)
    try:
        recompute(trained, x, batch_size=9, verbose=0)
    except ValueError as error:
        kept = error
    layer = trained.get_layer("first")
    before = values(layer.moving_mean).copy()
    layer.moving_mean.assign([7.0, 8.0, 9.0])
    del kept
    np.testing.assert_array_equal(values(layer.moving_mean), [7.0, 8.0, 9.0])
    layer.moving_mean.assign(before)


@EACH_ORDER
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite(trained, data, value, sequential):
    before, x = state(trained), data.astype(np.float32)
    x[30, 1] = value
    message = "in batch 3, counted from 0; the first to see it was layer 'first', in channel 1"
    with pytest.raises(ValueError, match=f"recompute_statistics: `data` must lead.*{message}"):
        recompute(trained, x, batch_size=9, sequential=sequential, verbose=0)
    assert_same_bits(trained, before)


def test_a_late_layer_that_is_not_finite(data):
    """In `sequential` earlier layers had theirs already."""
    inputs = keras.Input((3,))
    y = keras_norms.BatchNormalization(name="early")(inputs)
    y = keras.layers.Lambda(lambda x: x / tf.zeros_like(x))(y)
    model = keras.Model(inputs, keras_norms.BatchNormalization(name="late")(y))
    before = state(model)
    with pytest.raises(
        ValueError, match="batch 0, .* the first to see it was layer 'late', in channel 0"
    ):
        recompute(model, data.astype(np.float32), sequential=True, verbose=0)
    assert_same_bits(model, before)


def test_nan_in_padding_reaches_nothing(data):
    x = data.reshape(9, 5, 3).astype(np.float32)
    inputs = keras.Input((5, 3)), keras.Input((5,), dtype="bool")
    layer = keras_norms.BatchNormalization()
    outputs = layer(inputs[0], mask=inputs[1])
    model = keras.Model(inputs, outputs)
    mask = np.arange(45).reshape(9, 5) % 4 > 0
    x[~mask] = np.nan
    recompute(model, [x, mask], batch_size=4, verbose=0)
    assert_statistics(layer, flat_moments(x, mask), 1e-6)


BAD_DATA = {
    "empty": (lambda x: x[:0], "`data` must hold at least one instance"),
    "no batch": (lambda x: iter([]), "`data` must hold at least one batch. Received: none"),
    "endless": (
        lambda x: tf.data.Dataset.from_tensors(x).repeat(),
        "infinite `data` needs `steps`",
    ),
    "number": (lambda x: 3.0, "must be arrays or an iterable of batches. Received: float"),
    "tuple": (lambda x: (x, x), "the inputs alone, several of them in a list or a dict"),
    "lengths": (lambda x: [x, x[:5]], "arrays must have the same length"),
    "single": (lambda x: x[:1], "at least two values.* of layer 'first'. Received: 1"),
    "channels": (lambda x: x[:, :2], r"`data` must fit the model. Received: a batch of float32"),
    "dict": (lambda x: {"a": x}, r"`data` must fit the model. Received: a batch of float32"),
    "objects": (lambda x: iter([object()]), "`data` must hold arrays or tensors. Received: object"),
    "text": (lambda x: np.full((9, 3), "word"), r"`data` must fit the model. Received: a batch of"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_leaves_the_model_unchanged(trained, data, kind):
    make, message = BAD_DATA[kind]
    before = state(trained)
    with pytest.raises(ValueError, match=f"recompute_statistics: .*{message}"):
        recompute(trained, make(data.astype(np.float32)), verbose=0)
    assert_same_bits(trained, before)


def test_rejects_a_generator_that_must_be_read_several_times(trained, data):
    with pytest.raises(ValueError, match="must not be an iterator or a generator"):
        recompute(trained, iter([data]), sequential=True, verbose=0)


def frozen():
    model = keras.Sequential([keras.Input((3,)), keras_norms.BatchNormalization(name="norm")])
    model.trainable = False
    return model


BAD_MODELS = {
    "none": (lambda: None, "`model` must be a built Keras model"),
    "unbuilt": (lambda: keras.Sequential([keras_norms.BatchNormalization()]), "must be a built"),
    "plain": (
        lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
        "must have a layer with batch statistics",
    ),
    "frozen": (frozen, r"that is not frozen. Received: frozen=\['norm'\]"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_rejects_other_models(data, kind):
    make, message = BAD_MODELS[kind]
    with pytest.raises(ValueError, match=f"recompute_statistics: .*{message}"):
        recompute(make(), data, verbose=0)


@pytest.mark.parametrize(
    "options", [dict(steps=0), dict(steps=1.5), dict(batch_size=0), dict(sequential="yes")]
)
def test_rejects_bad_arguments(trained, data, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"recompute_statistics: `{name}` must be"):
        recompute(trained, data, verbose=0, **options)


def test_rejects_batches_that_have_no_range(data):
    model = keras.Sequential([keras.Input((3,)), keras_norms.RangeBatchNormalization()])
    before = state(model)
    with pytest.raises(ValueError, match="at least two values, for ranges in one batch"):
        recompute(model, data.astype(np.float32), batch_size=1, verbose=0)
    assert_same_bits(model, before)


def test_rejects_a_call_inside_a_function(trained, data):
    with pytest.raises(ValueError, match="it must be called outside of functions"):
        tf.function(lambda: recompute(trained, data, verbose=0), autograph=False)()


def test_rejects_a_layer_inside_a_loop(data):
    class Looping(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras_norms.BatchNormalization(name="hidden")

        def build(self, shape):
            self.norm.build(shape)
            self.built = True

        def call(self, inputs):
            return tf.map_fn(lambda row: self.norm(row[None])[0], inputs)

    model = keras.Sequential([keras.Input((3,)), Looping()])
    before = state(model)
    with pytest.raises(ValueError, match="layer 'hidden' runs inside a tf.cond, a loop or"):
        recompute(model, data.astype(np.float32), verbose=0)
    assert_same_bits(model, before)


def test_a_progress_bar_counts_batches(data, capsys):
    recompute(chain(keras_norms.BatchNormalization), data.astype(np.float32), batch_size=9)
    assert "5/5" in capsys.readouterr().out
    recompute(chain(keras_norms.BatchNormalization), data.astype(np.float32), verbose=0)
    assert not capsys.readouterr().out


def test_frozen_statistics_stay_and_open_windows_end(rng):
    frozen = keras_norms.BatchNormalization(frozen=["statistics"], name="frozen")
    open_window = keras_norms.BatchNormalization(accumulate_steps=3, name="open")
    model = keras.Sequential([keras.Input((3,)), frozen, open_window])
    x = rng.normal(2.0, 3.0, (16, 3)).astype(np.float32)
    model(x, training=True)
    assert int(np.asarray(open_window.accumulated_calls)) == 1
    before = np.asarray(frozen.moving_mean)
    assert list(keras_norms.recompute_statistics(model, x, verbose=0)) == ["open"]
    np.testing.assert_array_equal(np.asarray(frozen.moving_mean), before)
    assert int(np.asarray(open_window.accumulated_calls)) == 0
    assert not np.asarray(open_window.accumulated_count).any()


def test_batches_of_one_value_need_the_sequential_way(rng):
    layers = [keras_norms.BatchNormalization(), keras.layers.Dense(2), keras.layers.ReLU()]
    model = keras.Sequential([keras.Input((3,)), *layers, keras_norms.BatchNormalization()])
    x = rng.normal(2.0, 3.0, (8, 3)).astype(np.float32)
    before = [np.asarray(weight) for weight in model.weights]
    with pytest.raises(ValueError, match="two values per channel or more.*`sequential=True`"):
        keras_norms.recompute_statistics(model, x, batch_size=1, verbose=0)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), value)
    keras_norms.recompute_statistics(model, x, batch_size=1, sequential=True, verbose=0)
