"""Whole models with other batch normalization layers: weights, outputs, training, reports."""

import contextlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import IS_KERAS_3, keras, nested_layers
from keras_norms.models.layer_conversion import OURS
from keras_norms.schedules import LinearRamp
from tests.selection import leg

STOCK = keras.layers.BatchNormalization
BACK = dict(to=STOCK, synchronized=False)
convert = keras_norms.convert_batch_norm


class Block(keras.layers.Layer):
    """Layers in a list, a dict, a tuple and a model inside, and a weight of its own."""

    def __init__(self, norms=2, **kwargs):
        super().__init__(**kwargs)
        self.norms = [STOCK(name=f"norm_{index}") for index in range(norms)]
        self.named = {"pair": (keras.layers.Dense(4), STOCK())}
        self.head = keras.Sequential([keras.layers.Dense(4), STOCK(momentum=0.5)])
        self.again = self.norms[0]

    def build(self, input_shape):
        self.factor = self.add_weight(name="factor", shape=(4,), initializer="ones")
        super().build(input_shape)

    def call(self, x, training=None):
        for norm in (*self.norms, self.again):
            x = norm(x, training=training)
        dense, norm = self.named["pair"]
        return self.head(norm(dense(x), training=training), training=training) * self.factor

    def get_config(self):
        return {**super().get_config(), "norms": len(self.norms)}


class Subclassed(keras.Model):
    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.block, self.norm = Block(), STOCK(beta_regularizer="l2", gamma_constraint="non_neg")
        self.top = keras.layers.Dense(width)

    def call(self, x, training=None):
        return self.top(self.norm(self.block(x, training=training), training=training))

    def get_config(self):
        return {"name": self.name, "width": self.width}


def subclassed():
    model = Subclassed()
    model(tf.ones((2, 4)))
    model.block.norms[1].trainable = False
    return model


def functional():
    """Two inputs and outputs, a shared layer, a nested model, a custom layer, a wrapper, a mask."""
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    shared = STOCK(name="shared", epsilon=1e-5)
    inner = [keras.Input((4,)), keras.layers.Dense(4), STOCK()]
    nested = keras.Sequential(inner, name="nested")
    x = nested(keras.layers.Add()([shared(one), shared(other)]))
    x = keras.layers.Lambda(lambda x: 2.0 * x)(Block(name="block")(x))
    wrapped = keras.layers.TimeDistributed(STOCK(dtype="float64"), name="wrapped")
    z = wrapped(keras.layers.Reshape((2, 2))(x))
    x = keras.layers.Masking()(keras.layers.Reshape((2, 2))(one))
    x = STOCK(name="masked", scale=False)(x)
    nested.layers[0].trainable = False
    return keras.Model([one, other], [x, z], name="model")


def sequential():
    layers = [
        keras.layers.Conv2D(3, 2, use_bias=False),
        STOCK(),
        keras.layers.GroupNormalization(3),
    ]
    return keras.Sequential([keras.Input((2, 2, 2)), *layers], name="sequential")


MODELS = [sequential, functional, subclassed]


def with_values(model):
    rng = np.random.default_rng(5)
    for variable in model.weights:
        if np.asarray(variable).dtype.kind == "f":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def values(model):
    return [np.asarray(variable) for variable in model.weights]


def inputs_of(model):
    if model.name.startswith("model"):
        return [tf.random.stateless_normal((5, 4), (1, seed)) for seed in range(2)]
    shape = (5, 2, 2, 2) if model.name.startswith("sequential") else (5, 4)
    return tf.random.stateless_normal(shape, (1, 2))


def outputs(model):
    return [np.asarray(y) for y in tf.nest.flatten(model(inputs_of(model), training=False))]


def norms(model):
    return [layer for layer in nested_layers(model) if isinstance(layer, (STOCK, *OURS))]


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", MODELS)
def test_there_and_back(make):
    model = with_values(make())
    before = values(model)
    ours, report = convert(model)
    back, _ = convert(ours, **BACK)
    assert_equal(values(model), before)
    assert_equal(values(back), before)
    assert {type(layer) for layer in norms(ours)} == {keras_norms.SyncBatchNormalization}
    assert {type(layer) for layer in norms(back)} == {STOCK}
    assert len(report.changed) == len(report) == len(norms(model))
    for y, of_ours, of_back in zip(outputs(model), outputs(ours), outputs(back), strict=True):
        np.testing.assert_allclose(of_ours, y, rtol=1e-5, atol=1e-6 * np.abs(y).max())
        np.testing.assert_array_equal(of_back, y)
    flags = [
        sorted((layer.name, layer.trainable, layer.dtype) for layer in nested_layers(each))
        for each in (model, ours, back)
    ]
    assert flags[0] == flags[1] == flags[2]
    shapes = [[tuple(v.shape) for v in each.trainable_variables] for each in (model, back)]
    assert sorted(shapes[0]) == sorted(shapes[1])


def test_names_and_options_stay():
    model, _ = convert(with_values(functional()))
    assert [tensor.name.split(":")[0] for tensor in model.inputs] == ["one", "other"]
    assert model.get_layer("shared").epsilon == 1e-5
    assert model.get_layer("masked").gamma is None
    assert model.get_layer("nested").layers[-1].momentum == 0.99
    assert model.get_layer("block").head.layers[-1].momentum == 0.5
    assert model.get_layer("block").again is model.get_layer("block").norms[0]
    assert model.get_layer("wrapped").layer.compute_dtype == "float64"
    subclass, _ = convert(subclassed())
    assert isinstance(subclass.norm.beta_regularizer, keras.regularizers.L2)
    assert isinstance(subclass.norm.gamma_constraint, keras.constraints.NonNeg)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies_stay(policy):
    layers = [keras.layers.Dense(4, dtype=policy), STOCK(dtype=policy)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    ours, _ = convert(model)
    back, _ = convert(ours, **BACK)
    for each in (model, ours, back):
        layer = each.layers[-1]
        policy_now = layer.dtype_policy if IS_KERAS_3 else layer._dtype_policy
        assert policy_now.name == policy
        assert each.outputs[0].dtype == model.outputs[0].dtype


def test_a_frozen_layer_stays_frozen():
    norm = keras_norms.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), norm])
    keras_norms.freeze_batch_norm(model)
    same, _ = convert(model, keras_norms.SyncBatchNormalization)
    assert same.layers[-1].frozen == norm.frozen
    stock, report = convert(model, STOCK)
    assert not stock.layers[-1].trainable and not stock.trainable_variables
    assert [row.note for row in report] == [""]


def test_renorm_becomes_renorm_and_says_so():
    model = keras.Sequential([keras.Input((3,)), keras_norms.BatchRenormalization(r_max=2.0)])
    stock, report = convert(model, STOCK)
    assert stock.layers[-1].renorm and "with renorm=True" in report[0].note
    plain, _ = convert(model, STOCK, renorm=False)
    assert not plain.layers[-1].renorm


def test_moving_variances_move_as_before():
    """Those of Keras 2 for images divide by one less than the number of values."""
    model = with_values(sequential())
    ours, _ = convert(model, keras_norms.BatchNormalization)
    x = inputs_of(model)
    for each in (model, ours):
        each(x, training=True)
    variances = [np.asarray(each.layers[1].moving_variance) for each in (ours, model)]
    np.testing.assert_allclose(*variances, rtol=1e-6)


def test_masks_still_count():
    stock = functional()
    ours, _ = convert(stock, keras_norms.BatchNormalization)
    rows = tf.concat([tf.ones((3, 4)), tf.zeros((2, 4))], 0)
    for model in (stock, ours):
        model([rows, rows], training=True)
    for name in ("moving_mean", "moving_variance"):
        ours_now, stock_now = (getattr(m.get_layer("masked"), name) for m in (ours, stock))
        np.testing.assert_allclose(np.asarray(ours_now), np.asarray(stock_now), rtol=1e-5)


# The statistics of half of the classes are those of BatchNormalization.
KINDS = [OURS[0], *OURS[2:]] if leg() == "main" else [OURS[0], OURS[2], OURS[4], OURS[7]]


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_every_class_becomes_every_other(source, to):
    light = keras_norms.LightNormalization
    exact = {light: dict(number_format=None, gradient_format=None, block_size=None)}
    layer = source(axis=1, epsilon=1e-2, name="norm", **exact.get(source, {}))
    model = with_values(keras.Sequential([keras.Input((32, 3)), layer], name="m"))
    if hasattr(layer, "moving_open_share"):
        layer.moving_open_share.assign(1.0)  # Otherwise only its own class mixes in the input.
    converted, report = convert(model, to, **exact.get(to, {}))
    assert type(converted.layers[-1]) is to
    assert [row.became for row in report] == [to.__name__]
    x = np.random.default_rng(1).normal(size=(8, 32, 3)).astype(np.float32)
    y, expected = (np.asarray(each(x, training=False)) for each in (converted, model))
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-6)
    if source is to:
        assert_equal(values(converted), values(model))


def test_arguments_go_to_all_layers_and_what_is_lost_is_told():
    ramp = LinearRamp(0, 10, 0.5, 0.9)
    layer = keras_norms.BatchNormalization(momentum=ramp, max_update=3.0, name="norm")
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.step.assign(5)
    converted, report = convert(model, keras.layers.BatchNormalization, epsilon=0.5)
    assert converted.layers[-1].momentum == pytest.approx(0.7)
    assert converted.layers[-1].epsilon == 0.5
    assert str(report) == (
        "norm: BatchNormalization -> BatchNormalization (without a `momentum` that changes (it is "
        "that of the next step), max_update)"
    )


@pytest.mark.parametrize(
    "make, optimizer",
    [
        (sequential, lambda: keras.optimizers.Adam(0.01)),
        # Adam would make steps out of gradients that are 0 but for rounding, as in this model.
        (subclassed, lambda: keras.optimizers.SGD(0.01, momentum=0.9)),
    ],
    ids=["adam", "sgd"],
)
def test_training_goes_on_as_if_nothing_had_happened(make, optimizer):
    model = with_values(make())
    x = inputs_of(model)
    y = tf.zeros_like(model(x))
    model.compile(optimizer(), "mse")
    model.fit(x, y, epochs=3, verbose=0)
    ours, _ = convert(model, keras_norms.BatchNormalization)
    for each in (model, ours):
        each.fit(x, y, epochs=20, verbose=0)
    assert int(np.asarray(ours.optimizer.iterations)) == 23
    losses = [each.history.history["loss"] for each in (model, ours)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for one, other in zip(outputs(ours), outputs(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


def test_weights_kept_from_decay_and_loss_scales_stay():
    model = with_values(sequential())
    inner = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_list=[model.layers[1].gamma])
    scaled = (keras.optimizers if IS_KERAS_3 else keras.mixed_precision).LossScaleOptimizer
    model.compile(scaled(inner), "mse")
    x = inputs_of(model)
    model.fit(x, tf.zeros_like(model(x)), epochs=2, verbose=0)
    copy, _ = convert(model)
    optimizer = copy.optimizer.inner_optimizer
    gamma = copy.layers[1].gamma
    assert list(optimizer._exclude_from_weight_decay) == [optimizer._var_key(gamma)]
    for name in ("_momentums", "_velocities"):
        assert_equal(*([np.asarray(v) for v in getattr(o, name)] for o in (optimizer, inner)))


if not IS_KERAS_3:  # Which has no optimizers of the older API.

    def test_slots_of_optimizers_of_the_older_api_stay():
        model = with_values(sequential())
        model.compile(keras.optimizers.legacy.Adam(0.01), "mse")
        x = inputs_of(model)
        model.fit(x, tf.zeros_like(model(x)), epochs=2, verbose=0)
        copy, _ = convert(model)
        pairs = zip(copy.trainable_variables, model.trainable_variables, strict=True)
        for new, old in pairs:
            for name in ("m", "v"):
                slots = copy.optimizer.get_slot(new, name), model.optimizer.get_slot(old, name)
                np.testing.assert_array_equal(*map(np.asarray, slots))
        assert int(copy.optimizer.iterations) == 2


def adapted():
    x = np.random.default_rng(2).normal(5.0, 3.0, (32, 4)).astype(np.float32)
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    return keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(4), STOCK()])


def looked_up():
    lookup = keras.layers.IntegerLookup()
    lookup.adapt(np.array([[7], [9], [7]]))
    layers = [lookup, keras.layers.Embedding(4, 3), STOCK(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((1,), dtype="int64"), *layers])


@pytest.mark.parametrize("change", [convert, keras_norms.fold_batch_norm])
@pytest.mark.parametrize("make, x", [(adapted, tf.ones((3, 4))), (looked_up, tf.constant([[9]]))])
def test_adapted_layers_stay_adapted(change, make, x):
    model = with_values(make()) if make is looked_up else make()
    copy, _ = change(model)
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5, atol=1e-6)


class Named(NamedTuple):
    first: Any
    second: Any


class Pair(keras.layers.Layer):
    """Two layers of one name, which the config holds, and one in a named tuple."""

    def __init__(self, one, other, **kwargs):
        super().__init__(**kwargs)
        self.one, self.other = one, other
        self.named = Named(STOCK(name="third", momentum=0.7), None)

    def build(self, input_shape):
        for layer in (self.one, self.other, self.named.first):
            if not layer.built:
                layer.build(input_shape)
        super().build(input_shape)

    def call(self, x):
        return self.named.first(self.other(self.one(x)))

    def get_config(self):
        inner = {name: keras.layers.serialize(getattr(self, name)) for name in ("one", "other")}
        return {**super().get_config(), **inner}

    @classmethod
    def from_config(cls, config):
        inner = {name: keras.layers.deserialize(config[name]) for name in ("one", "other")}
        return cls(**{**config, **inner})


def test_layers_of_one_name_keep_their_own_options():
    pair = Pair(STOCK(name="norm", epsilon=1.0), STOCK(name="norm", momentum=0.5), name="pair")
    model = with_values(keras.Sequential([keras.Input((4,)), pair]))
    copy, report = convert(model)
    new = copy.layers[0]
    assert (new.one.epsilon, new.other.momentum, new.named.first.momentum) == (1.0, 0.5, 0.7)
    assert len(report.changed) == 3
    x = tf.random.stateless_normal((4, 4), (1, 2))
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5, atol=1e-5)


def shared_between_models():
    shared, x, y = STOCK(name="shared"), keras.Input((4,)), keras.Input((4,))
    inner = keras.Model(y, shared(y))
    return keras.Model(x, keras.layers.Add()([inner(x), shared(x)]), name="given")


def test_an_unused_layer_and_a_compile_of_ones_own_do_no_harm():
    class Own(Subclassed):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.unused = STOCK()

        def compile(self, *args, **kwargs):
            super().compile("sgd", "mse")

    model = Own()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(tf.ones((2, 4)))
        model.compile()
        copy, report = convert(model)
    assert isinstance(copy.unused, keras_norms.SyncBatchNormalization) and not copy.unused.built
    for one, other in zip(outputs(copy), outputs(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_window_of_another_kind_begins_anew():
    norm = keras_norms.BatchNormalization(accumulate_steps=4)
    model = keras.Sequential([keras.Input((3,)), norm])
    x = tf.random.stateless_normal((16, 3), (1, 2))
    model(x, training=True)
    same, _ = convert(model)
    other, _ = convert(model, keras_norms.RangeBatchNormalization)
    calls = [int(np.asarray(each.layers[0].accumulated_calls)) for each in (same, other)]
    assert calls == [1, 0]


class Holder:
    def __init__(self, layer):
        self.layer = layer


class Hides(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.holder = Holder(STOCK(name="hidden"))

    def call(self, x):
        return self.holder.layer(x)


def test_a_layer_that_cannot_be_reached_is_named_and_stays_as_it_was():
    model = keras.Sequential([keras.Input((3,)), Hides(name="hides"), STOCK(name="norm")])
    hidden = model.layers[0].holder.layer
    hidden.build((None, 3)) if not hidden.built else None
    hidden.moving_mean.assign([1.0, 2.0, 3.0])
    with pytest.warns(UserWarning, match=r"hides/holder.layer: .* as it was \(it cannot be"):
        copy, report = convert(model)
    assert [row.path for row in report.unchanged] == ["hides/holder.layer"]
    in_copy = copy.layers[0].holder.layer
    assert type(in_copy) is STOCK and in_copy is not hidden
    np.testing.assert_array_equal(np.asarray(in_copy.moving_mean), [1.0, 2.0, 3.0])
    x = tf.random.stateless_normal((4, 3), (1, 2))
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5, atol=1e-6)


class OwnGraph(keras.Model):
    """Builds its graph itself, and has a config of its own."""

    def __init__(self, width=4, **kwargs):
        x = keras.Input((4,))
        super().__init__(x, STOCK(name="norm")(keras.layers.Dense(width)(x)), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        del custom_objects
        return cls(**config)


def test_a_layer_in_a_graph_that_a_class_builds_cannot_be_reached():
    model = with_values(OwnGraph())
    with pytest.warns(UserWarning, match="it cannot be reached"):
        copy, report = convert(model)
    assert len(report.unchanged) == 1 and not report.changed
    x = tf.random.stateless_normal((5, 4), (1, 2))
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5, atol=1e-6)


class Derived(STOCK):
    pass


class WithoutConfig(keras.Model):
    def __init__(self, function):
        super().__init__()
        self.function, self.norm = function, STOCK()

    def call(self, x):
        return self.norm(self.function(x))


def without_config():
    model = WithoutConfig(tf.abs)
    model(tf.ones((2, 3)))
    return model


def built(*layers):
    return keras.Sequential([keras.Input((3,)), *layers], name="given")


@pytest.mark.parametrize(
    "model, options, message",
    [
        (lambda: STOCK(), {}, "`model` must be a Keras model. Received: model='BatchNorm"),
        (lambda: keras.Sequential([STOCK()], name="given"), {}, "must be built. .*'given'"),
        (lambda: built(Derived()), {}, "must have a batch normalization layer. .*'given'"),
        (lambda: built(STOCK()), dict(to=keras.layers.Dense), "`to` must be .*to='Dense'"),
        (lambda: built(STOCK()), dict(r_max=2.0), "one that SyncBatchNormalization takes.*'r_max'"),
        (lambda: built(STOCK()), dict(momentum=2.0), "momentum.*2.0"),
        (without_config, {}, "rebuilt from its config.*WithoutConfig"),
        (shared_between_models, {}, "'given', where that fails: .*'shared' is one layer in two"),
    ],
)
def test_bad_input(model, options, message):
    model = model()
    before = values(model) if model.built else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=message):
            convert(model, **options)
    assert_equal(values(model) if model.built else [], before)


def test_folding_a_layer_of_two_models_leaves_its_call_alone():
    model = shared_between_models()
    norm = model.get_layer("shared")
    x = tf.random.stateless_normal((5, 4), (1, 2))
    before = np.asarray(model(x))
    with contextlib.suppress(ValueError):
        keras_norms.fold_batch_norm(model)
    assert "call" not in vars(norm)
    np.testing.assert_array_equal(np.asarray(model(x)), before)


def test_folded_weights_must_be_finite_in_half_precision():
    half = dict(dtype="mixed_float16")
    dense = keras.layers.Dense(2, kernel_initializer="identity", **half)
    norm = STOCK(epsilon=1e-5, **half)
    model = keras.Sequential([keras.Input((2,)), dense, norm])
    norm.moving_mean.assign([500.0, 500.0])
    norm.moving_variance.assign([1e-5, 1e-5])
    with pytest.raises(ValueError, match="must be finite"):
        keras_norms.fold_batch_norm(model)
