"""`AdaptiveBatchStandardization` against the paper's rule in NumPy float64, without its bugs."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras

PAPER_EPSILON = float(np.finfo("float64").eps)
SHAPES = {"images": (6, 4, 3), "grey": (6, 4), "vectors": (6,), "clips": (2, 3, 4, 2)}
# A batch of two samples of four values each; means 3 and 8, both of them class means.
X = np.array([[1.0, 3.0, 3.0, 5.0], [7.0, 8.0, 8.0, 9.0]])


def oracle(x, centers, band=1.2, epsilon=1e-3):
    """The output and whether the rule fires, sample by sample. `centers` has one a sample."""
    x = np.asarray(x, np.float64)
    fires = False
    for sample, center in zip(x, np.broadcast_to(centers, len(x)), strict=True):
        fires |= not center - band * abs(center) <= sample.mean() <= center + band * abs(center)
    return (x - x.mean(0)) / np.sqrt(x.var(0) + epsilon) if fires else x, fires


def class_means(x, labels, num_classes):
    means = x.reshape(len(x), -1).mean(1, dtype=np.float64)
    return np.array([means[labels == c].mean() for c in range(num_classes)])


def adapted(x, labels, num_classes=3, **options):
    layer = keras_norms.AdaptiveBatchStandardization(num_classes, name="input", **options)
    layer.adapt(x, labels)
    return layer


def weights_of(layer):
    return [np.asarray(tf.convert_to_tensor(w)) for w in (layer.class_mean, layer.class_count)]


def samples(rng, shape=(6, 4, 3), size=30):
    """Samples of three classes with means near 20, 40 and 60, and their labels."""
    labels = np.arange(size) % 3
    levels = 20.0 * (labels + 1).reshape(-1, *[1] * len(shape))
    return rng.normal(levels, 5.0, (size, *shape)), labels


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("band", [0.2, 1.2])
def test_batches_in_and_out_of_the_band(shape, band, rng):
    x, labels = samples(rng, shape)
    layer = adapted(x, labels, band=band, dtype="float64")
    centers = class_means(x, labels, 3)
    np.testing.assert_allclose(weights_of(layer)[0], centers, rtol=1e-14)
    np.testing.assert_array_equal(weights_of(layer)[1], [10, 10, 10])
    fired = []
    for factor in (1.0, 1.4, 2.6):
        batch, of_batch = x[:8] + 0.0, labels[:8]
        batch[3] *= factor
        expected, fires = oracle(batch, centers[of_batch], band)
        fired.append(fires)
        np.testing.assert_allclose(layer(batch, of_batch), expected, rtol=1e-9, atol=1e-11)
        assert bool(layer.is_heterogeneous(batch, of_batch)) == fires
        # Without labels, around the mean of all samples.
        expected, fires = oracle(batch, x.mean(), band)
        np.testing.assert_allclose(layer(batch), expected, rtol=1e-9, atol=1e-11)
        assert bool(layer.is_heterogeneous(batch)) == fires
    if len(shape) > 1:  # A mean of six values is not that near to its class mean.
        assert fired == [False, band == 0.2, True]


def test_inputs_that_are_not_out_of_band_are_returned_as_they_are(rng):
    x = rng.integers(90, 110, (9, 5), np.uint8)
    layer = adapted(x, np.arange(9) % 3)
    y = layer(x, np.arange(9) % 3)
    assert y.dtype == tf.float32
    np.testing.assert_array_equal(y, x)


def test_all_samples_are_judged_on_raw_values():
    """The authors' code judges later samples on values that an earlier one has standardized.

    Class 0 has mean 10 and class 1 mean -10. The first sample is out; standardized values, which
    are near 0, are out of the band around the means with a band below 1. So it standardizes
    once more for each later sample.
    """
    layer = adapted(np.array([[10.0], [-10.0]]), [0, 1], 2, band=0.5, epsilon=0.1)
    x, labels = np.array([[40.0], [9.0], [-9.0]]), np.array([0, 0, 1])
    once, fires = oracle(x, [10.0, 10.0, -10.0], 0.5, 0.1)
    again, fires_again = oracle(once, [10.0, 10.0, -10.0], 0.5, 0.1)
    assert fires and fires_again and abs(again - once).max() > 1e-3
    np.testing.assert_allclose(layer(x, labels), once, rtol=1e-6)


def test_the_mean_of_a_sample_is_over_all_channels_and_the_border(rng):
    """The authors' code leaves out the last row and column, and fails for more channels."""
    x = np.full((2, 3, 3, 3), 10.0)
    layer = adapted(x, [0, 0], 1)
    assert float(weights_of(layer)[0][0]) == 10.0
    x[0, 2, 2] = [10.0, 10.0, 10.0 + 27 * 13.0]  # Mean 23, above 22, by the last pixel alone.
    assert bool(layer.is_heterogeneous(x, [0, 0]))
    x[0, 2, 2, 2] -= 27 * 2.0  # Mean 21.
    assert not bool(layer.is_heterogeneous(x, [0, 0]))


def test_statistics_are_exact_far_from_zero(rng):
    x = (1e6 + rng.normal(size=(16, 8))).astype(np.float32)
    layer = adapted(x, np.zeros(16, int), 1, band=0.0)  # No sample is at its mean.
    expected, fires = oracle(x, 1e6, 0.0)
    assert fires
    np.testing.assert_allclose(layer(x, np.zeros(16, int)), expected, atol=1e-5)
    mean = x.mean(1, dtype=np.float64).mean()
    np.testing.assert_allclose(weights_of(layer)[0], [mean], rtol=1e-15)


def test_the_epsilon_of_the_paper_is_an_option_and_enlarges_what_hardly_varies():
    x = np.full((10, 2), 5.0)
    x[0] = 5.0 + 1e-5, 500.0
    labels = np.zeros(10, int)
    for epsilon, first in ((1e-3, 9e-6 / np.sqrt(1e-3)), (PAPER_EPSILON, 3.0)):
        layer = adapted(np.full((1, 2), 5.0), [0], 1, epsilon=epsilon, dtype="float64")
        y = layer(x, labels)
        np.testing.assert_allclose(y, oracle(x, 5.0, 1.2, epsilon)[0], rtol=1e-9)
        np.testing.assert_allclose(y[0, 0], first, rtol=1e-3)


def test_a_class_that_was_never_seen_is_judged_by_the_mean_of_all_samples(rng):
    x, labels = samples(rng)
    layer = adapted(x, labels, num_classes=4, band=0.5)
    overall = x.mean()
    np.testing.assert_array_equal(weights_of(layer)[1], [10, 10, 10, 0])
    for factor in (1.4, 1.6):
        batch = np.full((2, 6, 4, 3), overall)
        batch[1] *= factor
        assert bool(layer.is_heterogeneous(batch, [3, 3])) == (factor == 1.6)
    # Classes of unequal sizes: the mean is over samples, not over classes.
    layer.adapt(x[:4], [0, 0, 0, 1])
    total = np.sum(np.prod(weights_of(layer), 0)) / 4
    np.testing.assert_allclose(total, x[:4].mean(), rtol=1e-12)
    assert not bool(layer.is_heterogeneous(np.full((1, 6, 4, 3), total * 1.45)))
    assert bool(layer.is_heterogeneous(np.full((1, 6, 4, 3), total * 1.55)))


def test_labels_may_be_a_column_or_one_hot(rng):
    x, labels = samples(rng)
    layer = adapted(x, labels)
    x[:, 0] *= 2.5
    expected = layer(x[:6], labels[:6])
    for form in (labels[:6, None], np.eye(3)[labels[:6]], np.eye(3, dtype=int)[labels[:6]]):
        np.testing.assert_array_equal(layer(x[:6], form), expected)
        again = adapted(x[:6], form)
        for one, other in zip(
            weights_of(again), weights_of(adapted(x[:6], labels[:6])), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_adapting_to_batches_is_adapting_to_all_of_them_and_starts_anew(rng):
    x, labels = samples(rng)
    expected = weights_of(adapted(x, labels))
    layer = adapted(x[:5] * 7.0, labels[:5])
    layer.adapt(tf.data.Dataset.from_tensor_slices((x, labels)).batch(7))
    np.testing.assert_allclose(weights_of(layer)[0], expected[0], rtol=1e-14)
    np.testing.assert_array_equal(weights_of(layer)[1], expected[1])
    layer.adapt(zip(np.split(x, 3), np.split(labels, 3), strict=True))
    np.testing.assert_allclose(weights_of(layer)[0], expected[0], rtol=1e-14)
    pixels = (x * 3.0).clip(0, 255).astype(np.uint8)
    centers = class_means(pixels, labels, 3)
    np.testing.assert_allclose(weights_of(adapted(pixels, labels))[0], centers, rtol=1e-14)


def test_in_a_data_pipeline_and_a_compiled_function(rng):
    x, labels = samples(rng)
    layer = adapted(x, labels, band=0.3, dtype="float64")
    x[7] *= 2.0
    centers = class_means(*samples(np.random.default_rng(20)), 3)
    expected = [oracle(x[i : i + 5], centers[labels[i : i + 5]], 0.3) for i in range(0, 30, 5)]
    assert [fires for _, fires in expected] == [False, True, False, False, False, False]
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(5)
    for batch, (y, _) in zip(dataset.map(layer), expected, strict=True):
        np.testing.assert_allclose(batch, y, rtol=1e-9)
    for jit in (False, True):
        call = tf.function(layer, jit_compile=jit)
        for (batch, of_batch), (y, _) in zip(dataset, expected, strict=True):
            np.testing.assert_allclose(call(batch, of_batch), y, rtol=1e-9)
        without = oracle(x[5:10], np.average(centers), 0.3)[0]
        np.testing.assert_allclose(call(tf.constant(x[5:10])), without, rtol=1e-9)


@pytest.mark.parametrize("with_labels", [False, True])
def test_saved_in_a_model(with_labels, rng, tmp_path):
    x, labels = samples(rng, (5,))
    layer = keras_norms.AdaptiveBatchStandardization(3, band=0.3, epsilon=0.1, name="input")
    inputs = [keras.Input((5,)), keras.Input((), dtype="int64")][: 1 + with_labels]
    model = keras.Model(inputs, layer(*inputs))  # A model may be made before `adapt`.
    layer.adapt(x, labels)
    given = [tf.constant(x[:6], tf.float32), tf.constant(labels[:6])][: 1 + with_labels]
    given = given if with_labels else given[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(given), model(given))
    assert loaded.get_layer("input").get_config() == layer.get_config()
    for one, other in zip(weights_of(loaded.get_layer("input")), weights_of(layer), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not model.trainable_weights and not layer.trainable_weights
    config = layer.get_config()
    assert (config["num_classes"], config["band"], config["epsilon"]) == (3, 0.3, 0.1)


def test_an_empty_batch_and_nan():
    layer = adapted(X, [0, 1], 2)
    assert layer(np.zeros((0, 4)), np.zeros(0, int)).shape == (0, 4)
    x = X.copy()
    x[0, 0] = np.nan
    assert bool(layer.is_heterogeneous(x, [0, 1]))


@pytest.mark.parametrize(
    "data, labels, message",
    [
        (X, [0, 2], r"`labels` must lie in \[0, 2\). Received: least_and_greatest=\[0, 2\]"),
        (X, [0, -1], r"`labels` must lie in \[0, 2\)"),
        (X, [0], r"there must be a label for each sample. Received: sizes=\[1, 2\]"),
        (X, [0.0, 1.0], r"`labels` must be ints of shape.*shape=\(2,\), dtype='float32'"),
        (X, np.zeros((2, 3), int), r"`labels` must be ints.*one-hot rows of shape \(batch, 2\)"),
        (X[0], [0], r"`inputs` must have rank 2 or more.*Received: shape=\(4,\)"),
        (X * np.nan, [0, 1], r"means of samples must be finite"),
        (X[:0], np.zeros(0, int), r"there must be samples to adapt to"),
        (X, None, r"`data` must be an array that comes with `labels`, or batches.*labels=None"),
        ([(X, [0, 1]), X], None, r"batches of \(x, labels\). Received: batch='ndarray'"),
        ([(X, [0, 1]), (X, [0, 5])], None, r"`labels` must lie in \[0, 2\)"),
    ],
)
def test_adapt_that_fails_leaves_what_there_was(data, labels, message):
    layer = adapted(X, [0, 1], 2)
    with pytest.raises(ValueError, match="AdaptiveBatchStandardization 'input': .*" + message):
        layer.adapt(data, labels)
    np.testing.assert_array_equal(weights_of(layer)[0], [3.0, 8.0])
    np.testing.assert_array_equal(weights_of(layer)[1], [1, 1])


def test_rejects_labels_and_a_layer_that_was_not_adapted():
    """Eagerly a `ValueError`; in a graph the same sentence when it runs; NaN under XLA."""
    fresh = keras_norms.AdaptiveBatchStandardization(2, name="input")
    for layer, labels, message in (
        (fresh, [0, 1], "`adapt` must be called before the layer is"),
        (adapted(X, [0, 1], 2), [0, 2], r"`labels` must lie in \[0, 2\)"),
    ):
        message = "AdaptiveBatchStandardization .*input.*: " + message
        with pytest.raises(ValueError, match=message):
            layer(X, np.array(labels))
        with pytest.raises(ValueError, match=message):
            layer.is_heterogeneous(X, np.array(labels))
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            tf.function(layer)(tf.constant(X), tf.constant(labels))
        dataset = tf.data.Dataset.from_tensors((X, np.array(labels))).map(layer)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            next(iter(dataset))
        y = tf.function(layer, jit_compile=True)(tf.constant(X), tf.constant(labels))
        assert np.isnan(y).all()


def test_rejects_a_label_for_another_number_of_samples():
    layer = adapted(X, [0, 1], 2)
    with pytest.raises(ValueError, match=r"label for each sample. Received: sizes=\[1, 2\]"):
        layer(X, np.array([0]))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_classes=0), r"`num_classes` must be a positive int. Received: num_classes=0"),
        (dict(num_classes=None), r"`num_classes` must be a positive int"),
        (dict(num_classes=2, band=-0.1), r"`band` must be a finite number, at least 0"),
        (dict(num_classes=2, epsilon=-1.0), r"`epsilon` must be a finite number, at least 0"),
    ],
)
def test_rejects_arguments(options, message):
    with pytest.raises(ValueError, match="AdaptiveBatchStandardization 'input': .*" + message):
        keras_norms.AdaptiveBatchStandardization(name="input", **options)
