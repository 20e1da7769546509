"""Fused models compute and train as before, reports say what was left, and there is a way back."""

import re

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras, nested_layers, on_replicas
from tests.catalog import ROWS

layers = keras.layers
BN = keras_norms.BatchNormalization
fuse, unfuse = keras_norms.fuse_activations, keras_norms.unfuse_activations
main_leg = pytest.mark.main_leg
# One variant of each layer.
NAMES = ("batch", "sync", "renorm", "regularized", "batchless", "range", "light", "adaptive")


def residual_net(norm=BN, dtype="float64", size=6):
    """A stem, a block with a projection, and one without, with three activations."""
    o = dict(dtype=dtype)
    x = keras.Input((size, size, 3), **o)

    def conv(filters, kernel):
        return layers.Conv2D(filters, kernel, padding="same", use_bias=False, **o)

    y = layers.Activation("relu", name="relu_0", **o)(norm(name="norm_0", **o)(conv(4, 3)(x)))
    shortcut = norm(name="norm_s", **o)(conv(6, 1)(y))
    z = layers.ReLU(6.0, name="relu_1", **o)(norm(name="norm_1", **o)(conv(6, 3)(y)))
    z = norm(name="norm_2", **o)(conv(6, 3)(z))
    y = layers.LeakyReLU(name="relu_2", **o)(layers.Add(name="add_2", **o)([shortcut, z]))
    z = norm(name="norm_3", **o)(conv(6, 3)(y))
    y = layers.ReLU(name="relu_3", **o)(layers.Add(name="add_3", **o)([z, y]))
    y = layers.Dense(2, name="top", **o)(layers.GlobalAveragePooling2D(**o)(y))
    return keras.Model(x, y)


FUSED = {
    "norm_0": "activation(y) (in place of 'relu_0')",
    "norm_1": "activation(y) (in place of 'relu_1')",
    "norm_2": "activation(y + residual) (in place of 'add_2' and 'relu_2')",
    "norm_3": "activation(y + residual) (in place of 'add_3' and 'relu_3')",
}


def data(*shape, seed=1):
    return np.random.default_rng(seed).normal(0.5, 1.5, shape)


def with_values(model):
    """Weights that are none of the defaults; what is divided by is above 0."""
    rng = np.random.default_rng(5)
    for layer in nested_layers(model):
        if not isinstance(layer, keras.Model):
            layer.set_weights([rng.uniform(0.3, 1.3, w.shape) for w in layer.get_weights()])
    return model


def weights(model):
    return {
        f"{layer.name}/{index}": weight
        for layer in nested_layers(model)
        if not isinstance(layer, keras.Model)
        for index, weight in enumerate(layer.get_weights())
    }


def gradients(model, x):
    """Of a training call: of the inputs, and of all weights by the names of their layers."""
    x = tf.constant(x)
    named = {
        f"{layer.name}/{index}": on_replicas(variable)[0]
        for layer in nested_layers(model)
        if not isinstance(layer, keras.Model)
        for index, variable in enumerate(layer.trainable_variables)
    }
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
        loss = tf.reduce_sum(tf.square(y)) + sum(map(tf.reduce_sum, model.losses))
    found = tape.gradient(loss, [x, *named.values()])
    return {"x": found[0], "y": y, **dict(zip(named, found[1:], strict=True))}


def assert_equal(actual, expected, rtol=0.0):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(np.max(np.abs(value), initial=0.0))
        np.testing.assert_allclose(actual[name], value, rtol=rtol, atol=rtol * scale, err_msg=name)


def structure(model):
    return [type(layer) for layer in model.layers]


# What fused models compute.


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-5), ("float64", 1e-10)])
def test_training_and_inference_there_and_back(dtype, rtol):
    model = with_values(residual_net(dtype=dtype))
    before, config = weights(model), repr(model.get_config())
    fused, report = fuse(model)
    back, _ = unfuse(fused)
    assert {row.path: f"{row.became} ({row.note})" for row in report.changed} == FUSED
    assert str(report.unchanged) == (
        "norm_s: BatchNormalization as it was (it is the residual of 'norm_2')"
    )
    x, target = data(8, 6, 6, 3).astype(dtype), data(8, 2, seed=2).astype(dtype)
    for each in (fused, back):
        assert_equal(weights(each), before)
        assert_equal({"y": each(x)}, {"y": model(x)}, rtol)
    results = []
    for each in (model, fused, back):
        found = gradients(each, x)
        optimizer = keras.optimizers.SGD(1e-2)
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(each(x, training=True) - target))
            trained = each.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, trained), trained, strict=True))
        results.append({**found, **weights(each), "inference": each(x)})
    for result in results[1:]:
        assert_equal(result, results[0], rtol)
    assert repr(model.get_config()) == config


@pytest.mark.parametrize("name", NAMES)
def test_every_layer(name):
    row = ROWS[name]

    def norm(**options):
        return row.make(**{**options, **({"momentum": 0.5} if "momentum" in options else {})})

    x = keras.Input((6, 4), dtype="float64")
    y = layers.ReLU(dtype="float64")(norm(name="one", dtype="float64")(x))
    y = layers.Add(dtype="float64")([norm(name="two", dtype="float64")(y), x])
    model = with_values(keras.Model(x, layers.LeakyReLU(dtype="float64")(y)))
    batch = data(8, 6, 4)
    fused, report = fuse(model)
    assert len(report) == len(report.changed) == 2
    assert [type(layer) for layer in fused.layers[1:]] == [row.layer] * 2
    assert_equal({"y": fused(batch)}, {"y": model(batch)}, 1e-10)
    assert_equal(gradients(fused, batch), gradients(model, batch), 1e-10)
    assert_equal(weights(fused), weights(model), 1e-10)


def applied_network(name):
    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(32, 32, 3), classes=4)
    return keras_norms.convert_batch_norm(model, BN)[0]


@main_leg
@pytest.mark.parametrize("name, fusions", [("ResNet50", 49), ("MobileNetV2", 35)])
def test_networks_of_keras(name, fusions):
    """In ResNet-50, 4 of 53 are in projections; in MobileNetV2, 17 of 52 are linear."""
    model = applied_network(name)
    fused, report = fuse(model)
    assert len(report.changed) == fusions
    assert not {layers.ReLU, layers.Activation}.intersection(structure(fused)[:-1])
    x = data(4, 32, 32, 3).astype("float32")
    assert_equal({"y": fused(x, training=True)}, {"y": model(x, training=True)}, 1e-5)
    assert_equal(weights(fused), weights(model), 1e-4)
    back, _ = unfuse(fused)
    assert structure(back) == [
        layers.Activation if kind is layers.Activation else kind for kind in structure(model)
    ]
    assert_equal({"y": back(x)}, {"y": fused(x)}, 1e-5)


def test_masks():
    """Padding counts in no statistic, and the layers behind know it."""
    tokens = keras.Input((5,))
    embedded = layers.Embedding(9, 4, mask_zero=True)(tokens)
    y = layers.ReLU()(layers.Add()([BN(name="one")(embedded), embedded]))
    z = layers.ReLU()(layers.Add()([y, BN(name="two")(layers.Dense(4)(y))]))
    model = keras.Model(tokens, layers.LSTM(3)(z))
    fused, report = fuse(model)
    assert len(report.changed) == 2
    x = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 4, 0]])
    assert_equal({"y": fused(x, training=True)}, {"y": model(x, training=True)}, 1e-5)
    assert_equal(weights(fused), weights(model), 1e-6)
    keras_norms.recompute_statistics(fused, x, verbose=0)
    keras_norms.recompute_statistics(model, x, verbose=0)
    assert_equal(weights(fused), weights(model), 1e-5)


def test_models_inside_and_outputs_in_dicts():
    inner_x = keras.Input((4,))
    y = layers.ReLU(name="relu")(BN(name="norm")(layers.Dense(4)(inner_x)))
    inner = keras.Model(inner_x, {"y": layers.ReLU(name="out")(BN(name="last")(y))}, name="inner")
    head = keras.Sequential([BN(name="norm"), layers.ReLU()], name="head")
    x, other = keras.Input((4,), name="x"), keras.Input((4,), name="other")
    total = layers.Add(name="sum")([inner(x)["y"], BN(name="norm")(inner(other)["y"])])
    model = keras.Model({"x": x, "other": other}, {"sum": layers.ReLU()(total), "head": head(x)})
    with_values(model)
    fused, report = fuse(model)
    assert sorted(row.path for row in report.changed) == [
        "head/norm",
        "inner/last",
        "inner/norm",
        "norm",
    ]
    batch = {"x": data(3, 4).astype("float32"), "other": data(3, 4, seed=2).astype("float32")}
    back, _ = unfuse(fused)
    for training in (False, True):
        expected = model(batch, training=training)
        for each in (fused, back):
            assert_equal(each(batch, training=training), expected, 1e-5)


@pytest.mark.parametrize("has_input", [True, False])
def test_sequential(has_input):
    first = [keras.Input((4,))] if has_input else []
    model = keras.Sequential([*first, BN(name="a"), layers.ReLU(), layers.Dense(3), BN(name="b")])
    model.build((None, 4))
    with_values(model)
    fused, report = fuse(model)
    assert isinstance(fused, keras.Sequential)
    assert [layer.name for layer in fused.layers][::2] == ["a", "b"]
    assert [row.became for row in report] == ["activation(y)", None]
    back, _ = unfuse(fused)
    assert structure(back) == structure(model)
    x = data(3, 4).astype("float32")
    for each in (fused, back):
        assert_equal({"y": each(x)}, {"y": model(x)}, 1e-6)


# What stays.


def test_training_goes_on_as_if_nothing_had_happened():
    """Optimizer slots, how the model is compiled, frozen layers and flags."""
    x = keras.Input((4,))
    y = layers.ReLU()(BN(name="norm_1")(layers.Dense(4, name="a")(x)))
    y = layers.ReLU()(layers.Add()([BN(name="norm_2")(layers.Dense(4, name="b")(y)), y]))
    model = keras.Model(x, layers.Dense(2, name="top")(BN(name="norm_3")(y)))
    keras_norms.freeze_batch_norm(model, pattern="norm_1")
    model.get_layer("norm_3").trainable = False
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    batch, target = data(8, 4).astype("float32"), data(8, 2, seed=2).astype("float32")
    model.fit(batch, target, epochs=2, verbose=0)
    fused, _ = fuse(model)
    assert fused.get_layer("norm_1").frozen == ["parameters", "statistics"]
    assert not fused.get_layer("norm_3").trainable
    assert int(np.asarray(fused.optimizer.iterations)) == 2
    histories = [
        each.fit(batch, target, epochs=2, shuffle=False, verbose=0).history
        for each in (model, fused)
    ]
    assert_equal(histories[1], histories[0], 1e-4)
    assert_equal(weights(fused), weights(model), 1e-5)


def two_outputs():
    x = keras.Input((4,))
    left = layers.ReLU(name="left")(BN(name="norm_l")(layers.Dense(2)(x)))
    right = layers.Dense(3, name="right")(x)
    return keras.Model(x, [left, right])


def test_an_output_has_the_name_of_the_normalization():
    """Also in how the model is compiled."""
    model = two_outputs()
    losses = {"left": "mse", "right": "mae"}
    model.compile("sgd", losses, loss_weights={"left": 2.0, "right": 0.5})
    x, targets = data(6, 4).astype("float32"), [np.ones((6, 2)), np.zeros((6, 3))]
    fused, _ = fuse(model)
    back, _ = unfuse(fused)
    names = ["norm_l", "right"], ["norm_l_activation", "right"]
    for each, expected in zip((fused, back), names, strict=True):
        assert each.output_names == expected
        found = each.evaluate(x, dict(zip(expected, targets, strict=True)), verbose=0)
        np.testing.assert_allclose(found, model.evaluate(x, targets, verbose=0), rtol=1e-5)


def test_files(tmp_path):
    """Weights also load from one to the other, where the layers with weights stay in order."""
    model = with_values(residual_net(dtype="float32"))
    fused, _ = fuse(model)
    x = data(2, 6, 6, 3).astype("float32")
    fused.save(tmp_path / "fused.keras")
    loaded = keras.models.load_model(tmp_path / "fused.keras")
    assert_equal(weights(loaded), weights(model))
    np.testing.assert_array_equal(loaded(x), fused(x))
    model.save_weights(tmp_path / "model.weights.h5")
    fused.save_weights(tmp_path / "fused.weights.h5")
    for source, target in (("model", fused), ("fused", unfuse(loaded).model)):
        target.set_weights([np.zeros_like(w) for w in target.get_weights()])
        target.load_weights(tmp_path / f"{source}.weights.h5")
        assert_equal(weights(target), weights(model))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_dtype_policies_stay(policy):
    x = keras.Input((4,))
    y = layers.Dense(4, dtype=policy)(x)
    shortcut = layers.Dense(4, dtype=policy)(y)
    y = layers.Add(dtype=policy)([BN(dtype=policy, name="norm")(y), shortcut])
    model = keras.Model(x, layers.ReLU(dtype=policy)(y))
    fused, report = fuse(model)
    assert len(report.changed) == 1
    for each in (fused, unfuse(fused).model):
        assert each.outputs[0].dtype == model.outputs[0].dtype
        tolerance = 1e-2 if policy == "mixed_float16" else 1e-1
        batch = data(8, 4).astype("float32")
        actual, expected = (tf.cast(m(batch, training=True), tf.float32) for m in (each, model))
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# The way back.


def test_names_of_layers_that_are_taken_apart():
    x = keras.Input((4,))
    y = layers.Dense(4, name="norm_add")(x)
    y = BN(name="norm", activation="silu")(y, residual=x)
    model = with_values(keras.Model(x, BN(name="last")(y, residual=x)))
    back, report = unfuse(model)
    assert [layer.name for layer in back.layers[2:]] == [
        "norm",
        "norm_add_1",
        "norm_activation",
        "last",
        "last_add",
    ]
    assert str(report).splitlines() == [
        "norm: BatchNormalization -> BatchNormalization "
        "(followed by 'norm_add_1' and 'norm_activation')",
        "last: BatchNormalization -> BatchNormalization (followed by 'last_add')",
    ]
    batch = data(3, 4).astype("float32")
    assert_equal({"y": back(batch)}, {"y": model(batch)}, 1e-5)


def test_a_shared_layer_is_taken_apart_in_all_its_calls():
    x = keras.Input((4,))
    norm = BN(name="norm", activation="relu")
    y = norm(norm(x, residual=x), residual=layers.Dense(4)(x))
    model = with_values(keras.Model(x, y))
    back, _ = unfuse(model)
    batch = data(3, 4).astype("float32")
    for training in (False, True):
        y, expected = (each(batch, training=training) for each in (back, model))
        assert_equal({"y": y}, {"y": expected}, 1e-5)


def test_to_stock_layers_only_taken_apart():
    model = with_values(residual_net(dtype="float32"))
    fused, _ = fuse(model)
    with pytest.raises(ValueError, match="^convert_batch_norm: .*unfuse_activations first"):
        keras_norms.convert_batch_norm(fused, layers.BatchNormalization)
    renorm = keras_norms.BatchRenormalization(activation="relu")
    with pytest.raises(ValueError, match="^renorm_to_stock: .*unfuse_activations first"):
        keras_norms.conversion.renorm_to_stock(renorm)
    stock, _ = keras_norms.convert_batch_norm(unfuse(fused).model, layers.BatchNormalization)
    ours, _ = keras_norms.convert_batch_norm(fused)
    x = data(2, 6, 6, 3).astype("float32")
    for each in (stock, ours):
        assert_equal({"y": each(x)}, {"y": model(x)}, 1e-4)


def test_other_calls_take_fused_models():
    model = with_values(residual_net())
    fused, _ = fuse(model)
    assert keras_norms.freeze_batch_norm(fused) == keras_norms.unfreeze_batch_norm(fused)
    clone = keras.models.clone_model(fused)
    clone.set_weights(fused.get_weights())
    x = data(8, 6, 6, 3)
    np.testing.assert_array_equal(clone(x), fused(x))
    noise = [
        [
            row.noise
            for row in keras_norms.diagnostics.advise(each, x, replicas=2, batch_size=2).rows
        ]
        for each in (model, fused)
    ]
    np.testing.assert_allclose(sorted(noise[0]), sorted(noise[1]), rtol=1e-9)


def test_folding_leaves_the_activation():
    model = with_values(residual_net())
    fused, _ = fuse(model)
    folded, report = keras_norms.fold_batch_norm(fused)
    assert len(report.changed) == 5 and not [
        layer for layer in folded.layers if isinstance(layer, BN)
    ]
    assert {row.path: row.note for row in report}["norm_2"] == (
        "followed by 'norm_2_add' and 'norm_2_activation'"
    )
    x = data(2, 6, 6, 3)
    assert_equal({"y": folded(x)}, {"y": model(x)}, 1e-9)


def test_folding_into_a_layer_behind_is_not_possible():
    model = keras.Sequential([keras.Input((4,)), BN(activation="relu"), layers.Dense(3)])
    folded, (row,) = keras_norms.fold_batch_norm(model)
    assert row.note == "its activation or residual is between"
    x = data(3, 4).astype("float32")
    np.testing.assert_array_equal(folded(x), model(x))


# What is left, and why.


class Derived(BN):
    pass


def after(norm, *parts):
    """A normalization called "norm", of 4 values, and layers behind it."""
    x = y = keras.Input((4,))
    for part in (norm, *parts):
        y = part(y)
    return keras.Model(x, layers.Dense(2)(y))


def summed(norm=None, shortcut=None, add=None, relu=None):
    """A normalization, a sum called "add", and a ReLU called "relu"."""
    x = keras.Input((4,))
    y = (norm or BN(name="norm"))(x)
    total = (add or layers.Add(name="total"))([y, x if shortcut is None else shortcut(x)])
    return keras.Model(x, (relu or layers.ReLU(name="relu"))(total))


def of_tensors(make):
    """`make(x, y)` of an input and of what a normalization called "norm" returns: outputs."""
    x = keras.Input((4,))
    return keras.Model(x, make(x, BN(name="norm")(x)))


def relu(x, name="relu"):
    return layers.ReLU(name=name)(x)


def total(tensors, name="total"):
    return layers.Add(name=name)(tensors)


def called_twice(part):
    """A shared layer behind the normalization."""
    return of_tensors(lambda x, y: [part(y), part(layers.Dense(4)(x))])


def masked():
    """A shortcut with a mask, which the sum passes on."""
    x, tokens = keras.Input((5, 4)), keras.Input((5,))
    embedded = layers.Embedding(9, 4, mask_zero=True)(tokens)
    y = relu(total([BN(name="norm")(layers.Dense(4)(x)), embedded]))
    return keras.Model([x, tokens], layers.LSTM(2)(y))


def broadcast():
    x, small = keras.Input((3, 4)), keras.Input((1, 4))
    return keras.Model([x, small], relu(total([BN(name="norm")(x), small])))


REASONS = {
    "stock": (
        lambda: after(layers.BatchNormalization(name="norm"), layers.ReLU()),
        "convert it first with convert_batch_norm",
    ),
    "derived": (
        lambda: after(Derived(name="norm"), layers.ReLU()),
        "its class, Derived, may compute something else",
    ),
    "has_activation": (
        lambda: after(BN(name="norm", activation="relu"), layers.ReLU()),
        "it has an activation already",
    ),
    "has_residual": (
        lambda: of_tensors(
            lambda x, y: relu(total([x, BN(name="norm_r", activation=None)(y, residual=x)]))
        ),
        "it has a residual already",
    ),
    "regularized_norm": (
        lambda: after(BN(name="norm", activity_regularizer="l2"), layers.ReLU()),
        "it has an activity regularizer",
    ),
    "nothing": (
        lambda: after(BN(name="norm")),
        "no activation layer is behind it, but '.*dense.*'",
    ),
    "dropout": (
        lambda: after(BN(name="norm"), layers.Dropout(0.5, name="drop"), layers.ReLU()),
        "no activation layer is behind it, but 'drop'",
    ),
    "trained_activation": (
        lambda: after(BN(name="norm"), layers.PReLU(name="prelu")),
        "no activation layer is behind it, but 'prelu'",
    ),
    "linear_sum": (
        lambda: summed(relu=layers.Dense(2, name="top")),
        "no activation layer is behind 'total', but 'top'",
    ),
    "tanh": (
        lambda: after(BN(name="norm"), layers.Activation("tanh", name="act")),
        "kernels do not compute 'act', tanh",
    ),
    "threshold": (
        lambda: after(BN(name="norm"), layers.ReLU(threshold=1.0, name="relu")),
        "kernels do not compute 'relu', a ReLU of these options",
    ),
    "shared": (
        lambda: (lambda norm: after(norm, layers.ReLU(), norm, layers.ReLU()))(BN(name="norm")),
        "it is shared",
    ),
    "shared_activation": (lambda: called_twice(layers.ReLU(name="relu")), "'relu' is shared"),
    "two_consumers": (
        lambda: of_tensors(lambda x, y: total([layers.Dense(4)(y), relu(y)])),
        "it has several consumers",
    ),
    "sum_with_two_consumers": (
        lambda: of_tensors(lambda x, y: (lambda t: [relu(t), layers.Dense(4)(t)])(total([y, x]))),
        "'total' has several consumers",
    ),
    "added_to_itself": (
        lambda: of_tensors(lambda x, y: relu(total([y, y]))),
        "it has several consumers",
    ),
    "output": (lambda: of_tensors(lambda x, y: [y, relu(y)]), "it is an output itself"),
    "sum_is_output": (
        lambda: of_tensors(lambda x, y: (lambda t: [t, relu(t)])(total([y, x]))),
        "'total' is an output itself",
    ),
    "three": (
        lambda: of_tensors(lambda x, y: relu(total([y, x, layers.Dense(4)(x)]))),
        "'total' adds 3 tensors",
    ),
    "broadcast": (broadcast, "'total' adds tensors of two shapes"),
    "dtype_of_activation": (
        lambda: after(BN(name="norm"), layers.ReLU(dtype="float64", name="relu")),
        "'relu' has another dtype",
    ),
    "dtype_of_sum": (
        lambda: summed(add=layers.Add(dtype="float64", name="total")),
        "'total' has another dtype",
    ),
    "dtype_of_residual": (
        lambda: summed(shortcut=layers.Dense(4, dtype="float64")),
        "what 'total' adds has another dtype than its input",
    ),
    "regularized_activation": (
        lambda: after(BN(name="norm"), layers.ReLU(activity_regularizer="l2", name="relu")),
        "'relu' has an activity regularizer",
    ),
    "mask": (masked, "what 'total' adds has a mask of its own"),
    "wrapped": (
        lambda: keras.Sequential(
            [keras.Input((3, 4)), layers.TimeDistributed(BN(name="norm"), name="wrap")]
        ),
        "it is inside of 'wrap', a TimeDistributed",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons(name):
    make, reason = REASONS[name]
    model = make()
    fused, report = fuse(model)
    notes = [row.note for row in report.unchanged]
    assert [note for note in notes if re.fullmatch(reason, note)], notes
    assert not report.changed
    assert structure(fused) == structure(model)


def test_what_another_model_calls_too_is_left():
    """Keras then does not tell the shapes of one of the calls."""
    model = summed()
    model.get_layer("total")([keras.Input((1, 4)), keras.Input((3, 4))])
    (row,) = fuse(model).report
    assert row.note == "another model calls it, too"


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("function", [fuse, unfuse])
def test_rejects_models(function):
    name = function.__name__
    subclassed = Subclassed()
    subclassed(tf.ones((2, 3)))
    for model, message in (
        (3, "`model` must be a built Keras model. Received: model='int'"),
        (BN(name="n"), "built Keras model. Received: model=\"BatchNormalization 'n'\""),
        (keras.Sequential([BN()]), "`model` must be a built Keras model"),
        (subclassed, "`model` must be Functional or Sequential"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .*{re.escape(message)}"):
            function(model)
