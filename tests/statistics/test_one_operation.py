"""The plain formula as one operation: everything it returns, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.ops.rectifier import Rectifier
from keras_norms.statistics.effective_size import SIZED_MOMENTS
from keras_norms.statistics.moments import MOMENTS
from keras_norms.statistics.moving_average import MovingAverage, MovingUpdate
from keras_norms.statistics.normalize import normalize_batch
from keras_norms.statistics.standardization import Standardization

pytestmark = pytest.mark.each_tensorflow

EPSILON = 0.01
LAYOUTS = {
    "dense": ((33, 20), 1),
    "nhwc": ((5, 4, 3, 7), 3),
    "nchw": ((5, 7, 4, 3), 1),
    "one channel": ((4, 5, 1), 2),
}
# Groups of planes, which go through both passes one after the other.
LARGE_PLANES = (4, 32, 40, 520), 1
RECTIFIERS = {
    "linear": None,
    "relu": Rectifier(),
    "relu6": Rectifier(cap=0.5),
    "leaky": Rectifier(negative_slope=0.25),
}
# Roundoff of the type that results are stored in, with room for sums.
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


@pytest.fixture(autouse=True)
def on_the_library(native):
    del native
    with keras_norms.implementation("native"):
        yield


class Case:
    """Inputs of a step, and what it should return."""

    def __init__(self, rng, layout, dtype="float64", has_residual=False, offset=1.0):
        self.shape, self.axis = layout
        channels = self.shape[self.axis]
        self.dtype, self.vectors = (
            tf.as_dtype(dtype),
            "float64" if dtype == "float64" else "float32",
        )
        self.x = tf.cast(rng.normal(offset, 2.0, self.shape), dtype)
        self.dy = tf.cast(rng.normal(size=self.shape), dtype)
        self.residual = tf.cast(rng.normal(size=self.shape), dtype) if has_residual else None
        self.gamma, self.beta, self.mean = (
            tf.constant(rng.normal(size=channels), self.vectors) for _ in range(3)
        )
        self.variance = tf.constant(rng.uniform(1.0, 2.0, channels), self.vectors)

    def step(self, rectifier=None, statistic=MOMENTS, has_extras=False, momentum=0.75):
        """y, statistics and new moving statistics, then the gradients by name."""
        rule = MovingAverage(momentum, EPSILON)
        with tf.GradientTape() as tape:
            sources = {"x": self.x, "gamma": self.gamma, "beta": self.beta}
            if self.residual is not None:
                sources["residual"] = self.residual
            tape.watch(sources)
            found = normalize_batch(
                self.x,
                Standardization(EPSILON, has_extras=has_extras),
                dict(gamma=self.gamma, beta=self.beta),
                statistic=statistic,
                axis=self.axis,
                residual=self.residual,
                rectifier=rectifier,
                moving=MovingUpdate(rule, self.mean, self.variance),
            )
        extras = [tf.ones_like(extra) for extra in found.extras]
        gradients = tape.gradient(
            [found.y, *found.extras], sources, output_gradients=[self.dy, *extras]
        )
        return found, gradients

    def expected(self, rectifier=None, has_extras=False, gate=None):
        """The same in float64: y, mean, variance, and the gradients by name."""
        last = self.x.shape.rank - 1
        x, dy = (np.moveaxis(_exact(t), self.axis, last) for t in (self.x, self.dy))
        residual = (
            0.0 if self.residual is None else np.moveaxis(_exact(self.residual), self.axis, last)
        )
        gamma, beta = _exact(self.gamma), _exact(self.beta)
        axes, count = tuple(range(last)), x.size // x.shape[-1]
        mean, variance = x.mean(axes), x.var(axes)
        inverse = 1.0 / np.sqrt(variance + EPSILON)
        x_hat = (x - mean) * inverse
        z = gamma * x_hat + beta + residual
        y, dz = z, dy
        if rectifier is not None:
            y = np.where(z > 0, np.minimum(z, rectifier.cap), rectifier.negative_slope * z)
            gate = z if gate is None else np.moveaxis(_exact(gate), self.axis, last)
            above = np.where(gate < rectifier.cap, dy, 0)
            dz = np.where(gate > 0, above, rectifier.negative_slope * dy)
        dx = gamma * inverse * (dz - dz.mean(axes) - x_hat * (dz * x_hat).mean(axes))
        if has_extras:
            dx = dx + 1.0 / count + 2.0 * (x - mean) / count
        gradients = {
            "x": np.moveaxis(dx, last, self.axis),
            "gamma": (dz * x_hat).sum(axes),
            "beta": dz.sum(axes),
            "residual": np.moveaxis(dz, last, self.axis),
        }
        return np.moveaxis(y, last, self.axis), mean, variance, count, gradients


def _exact(tensor):
    return tf.cast(tensor, tf.float64).numpy()


def assert_close(found, expected, tolerance):
    scale = max(1.0, np.max(np.abs(expected), initial=0.0))
    np.testing.assert_allclose(_exact(found), expected, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rectifier", RECTIFIERS.values(), ids=RECTIFIERS)
@pytest.mark.parametrize("has_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_step(rng, layout, has_residual, rectifier, dtype):
    check_step(rng, layout, has_residual, rectifier, dtype)


@pytest.mark.parametrize("rectifier", [None, Rectifier()], ids=["linear", "relu"])
@pytest.mark.parametrize("has_residual", [False, True], ids=["alone", "residual"])
def test_a_step_of_large_planes(rng, has_residual, rectifier):
    check_step(rng, LARGE_PLANES, has_residual, rectifier, "float32")


def check_step(rng, layout, has_residual, rectifier, dtype):
    case = Case(rng, layout, dtype, has_residual)
    found, gradients = case.step(rectifier)
    # With a residual, the gate is told from y as it was stored.
    gate = found.y if has_residual else None
    y, mean, variance, count, of_inputs = case.expected(rectifier, gate=gate)
    tolerance = TOLERANCE[dtype]
    assert_close(found.y, y, tolerance)
    exact = 1e-10 if dtype == "float64" else 1e-5
    for value, expected in zip(found.statistics, (mean, variance, [count]), strict=True):
        assert_close(value, expected, exact)
    for moved, old, batch in zip(
        found.moved, (case.mean, case.variance), (mean, variance), strict=True
    ):
        assert moved.dtype == case.vectors
        assert_close(moved, 0.75 * _exact(old) + 0.25 * batch, exact)
    for name, gradient in gradients.items():
        # Without one, by z, which is computed in float32.
        expected = of_inputs[name]
        near = tolerance * max(1.0, np.max(np.abs(expected)))
        wrong = np.abs(_exact(gradient) - expected) > near
        assert wrong.mean() <= (0.02 if rectifier and dtype != "float64" else 0.0), name


@pytest.mark.parametrize("statistic", [MOMENTS, SIZED_MOMENTS], ids=["moments", "sized"])
def test_gradients_of_mean_and_variance(rng, statistic):
    case = Case(rng, LAYOUTS["nhwc"])
    found, gradients = case.step(statistic=statistic, has_extras=True)
    *_, of_inputs = case.expected(has_extras=True)
    assert_close(gradients["x"], of_inputs["x"], 1e-10)
    assert statistic is MOMENTS or found.statistics.size == found.statistics.count


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_values_far_from_zero(rng, offset):
    case = Case(rng, LAYOUTS["dense"], "float32", offset=offset)
    found, gradients = case.step()
    y, mean, variance, _, of_inputs = case.expected()
    assert_close(found.y, y, 1e-5)
    np.testing.assert_allclose(found.statistics.variance, variance, rtol=1e-6)
    assert_close(gradients["x"], of_inputs["x"], 1e-5)


@pytest.mark.parametrize("rectifier", RECTIFIERS.values(), ids=RECTIFIERS)
@pytest.mark.parametrize("has_residual", [False, True], ids=["alone", "residual"])
def test_the_gradient_of_the_gradient_is_that_of_the_composite(rng, has_residual, rectifier):
    def second(implementation):
        case = Case(np.random.default_rng(3), LAYOUTS["nhwc"], has_residual=has_residual)
        with keras_norms.implementation(implementation), tf.GradientTape() as tape:
            tape.watch([case.x, case.dy, case.gamma, case.beta])
            _, gradients = case.step(rectifier, has_extras=True)
            total = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in gradients.values()])
        return tape.gradient(total, [case.x, case.dy, case.gamma, case.beta])

    for one, other in zip(second("native"), second("reference"), strict=True):
        if one is None or other is None:
            assert not np.any(one if other is None else other)
        else:
            assert_close(one, _exact(other), 1e-9)


def test_forward_mode(rng):
    case = Case(rng, LAYOUTS["nhwc"])
    tangent = tf.constant(rng.normal(size=case.shape))
    with tf.autodiff.ForwardAccumulator(case.x, tangent) as accumulator:
        found, _ = case.step(Rectifier())
    _, gradients = case.step(Rectifier())
    of_tangent = tf.reduce_sum(gradients["x"] * tangent)
    product = tf.reduce_sum(accumulator.jvp(found.y) * case.dy)
    np.testing.assert_allclose(product, of_tangent, rtol=1e-9)


def test_an_empty_batch_and_numbers_that_are_none():
    empty, vector = tf.zeros([0, 3]), tf.ones(3)
    update = MovingUpdate(MovingAverage(0.5, EPSILON), vector, 2.0 * vector)

    def normalized(x):
        parameters = dict(gamma=vector, beta=vector)
        options = dict(moving=update, rectifier=Rectifier())
        return normalize_batch(x, Standardization(EPSILON), parameters, **options)

    found = normalized(empty)
    assert found.y.shape == (0, 3) and np.all(found.moved[0] == 1.0)
    assert np.all(found.moved[1] == 2.0)
    # A momentum of 1 lets no NaN pass, and a rectifier hides none.
    update = update._replace(rule=MovingAverage(1.0, EPSILON))
    found = normalized(tf.fill([4, 3], np.nan))
    assert np.isnan(found.y).all() and np.all(found.moved[0] == 1.0)


@pytest.mark.parametrize("xla", ["ffi", "hlo"])
@pytest.mark.parametrize("has_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("rectifier", RECTIFIERS.values(), ids=RECTIFIERS)
def test_xla(rng, rectifier, has_residual, xla, monkeypatch):
    monkeypatch.setenv("KERAS_NORMS_XLA", xla)
    case = Case(rng, LAYOUTS["nhwc"], "float32", has_residual)
    found, gradients = tf.function(
        lambda: case.step(rectifier, has_extras=True), jit_compile=True
    )()
    expected, of_inputs = case.step(rectifier, has_extras=True)
    for one, other in zip(
        tf.nest.flatten([found, gradients]), tf.nest.flatten([expected, of_inputs]), strict=True
    ):
        assert_close(one, _exact(other), 1e-5)


@pytest.mark.parametrize("rectifier", RECTIFIERS.values(), ids=RECTIFIERS)
def test_infinite_numbers_are_rectified_as_by_tensorflow(rectifier):
    """What overflowed stays so, and its gradient is that of TensorFlow's operation."""
    x = tf.zeros([2, 3])
    residual = tf.constant([[np.inf, -np.inf, np.nan], [1.0, -1.0, 0.0]])

    def step():
        with tf.GradientTape() as tape:
            tape.watch(residual)
            options = dict(residual=residual, rectifier=rectifier)
            found = normalize_batch(x, Standardization(EPSILON), {}, **options)
        return found.y, tape.gradient(found.y, residual)

    found = step()
    with keras_norms.implementation("reference"):
        for one, other in zip(found, step(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_cancels_in_half_precision(dtype):
    """With a batch of one no gradient reaches x, whatever is rounded on the way."""
    x, residual = tf.constant([[1.0, -2.0, 3.0]]), tf.constant([[-1.0, -2.0, -3.0]])
    x, residual = tf.cast(x, dtype), tf.cast(residual, dtype)
    dy = tf.cast([[100.0, 33.3, 7.7]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        options = dict(residual=residual, rectifier=Rectifier(negative_slope=0.3))
        y = normalize_batch(x, Standardization(1e-3), {}, **options).y
    dx = tape.gradient(y, x, output_gradients=dy)
    assert np.max(np.abs(tf.cast(dx, tf.float64))) < 1e-3
