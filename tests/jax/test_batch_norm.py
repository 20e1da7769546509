"""y, gradients and moving statistics of `keras_norms.jax.batch_norm` against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import keras_norms.jax as kj
from tests import oracles

pytestmark = [pytest.mark.main_leg, pytest.mark.usefixtures("implementation")]
EPSILON = 1e-3
# Shape, axis, dtype, offset, whether there are weights.
CASES = {
    "last": ((6, 5, 4, 7), -1, "float32", 0.0, False),
    "first": ((4, 3, 5, 4), 1, "float32", 0.0, False),
    "outermost": ((3, 20), 0, "float32", 0.0, True),
    "dense": ((33, 17), 1, "float32", 0.0, False),
    "weights": ((6, 5, 4, 7), -1, "float32", 0.0, True),
    "weights_first": ((4, 3, 5, 4), 1, "float32", 0.0, True),
    "far": ((6, 5, 4, 7), -1, "float32", 1e6, False),
    "far_weights": ((6, 5, 4, 7), -1, "float32", 1e6, True),
    "bfloat16": ((6, 5, 4, 7), -1, "bfloat16", 3.0, True),
    "float16": ((6, 5, 4, 7), -1, "float16", 3.0, False),
    "float64": ((6, 5, 4, 7), -1, "float64", 1e6, True),
}


def inputs(case, rng):
    shape, axis, dtype, offset, has_weights = CASES[case]
    x, dy = (jnp.asarray(rng.normal(mean, 1.0, shape), dtype) for mean in (offset, 0.0))
    gamma, beta = rng.normal(size=(2, shape[axis]))
    weights = None
    if has_weights:
        sizes = list(shape)
        sizes[axis] = 1
        weights = rng.integers(0, 3, sizes)
        if dtype == "float64" or offset < 1e6:  # There float32 cannot hold a mean to read NaN as.
            x = jnp.where(weights == 0, jnp.asarray(np.nan, dtype), x)
    return x, dy, gamma, beta, weights


def pulled_back(x, dy, gamma, beta, weights, axis):
    """y, the gradients of sum(y dy), and the moving statistics after one step."""
    moving = kj.moving_statistics(len(gamma), jnp.float64 if x.dtype == "float64" else jnp.float32)

    def run(x, gamma, beta):
        return kj.batch_norm(
            x, gamma, beta, moving=moving, training=True, axis=axis, mask=weights, epsilon=EPSILON
        )

    y, pull, moving = jax.vjp(run, x, gamma, beta, has_aux=True)
    return y, *pull(dy), moving


@pytest.mark.parametrize("case", CASES)
def test_one_step(case, rng, request):
    if case == "float64":
        request.getfixturevalue("float64")
    shape, axis, dtype, _, _ = CASES[case]
    x, dy, gamma, beta, weights = inputs(case, rng)
    vectors = (jnp.asarray(gamma, "float32"), jnp.asarray(beta, "float32"))
    if dtype == "float64":
        vectors = (gamma, beta)
    y, dx, dgamma, dbeta, moving = jax.jit(pulled_back, static_argnames="axis")(
        x, dy, *vectors, weights, axis=axis
    )
    wide = [1] * len(shape)
    wide[axis] = shape[axis]
    scale, shift = gamma.reshape(wide), beta.reshape(wide)
    exact, exact_dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    expected, (_, mean, variance) = oracles.batch_norm(exact, scale, shift, EPSILON, axis, weights)
    gradients = oracles.batch_norm_gradients(exact, exact_dy, scale, EPSILON, axis, weights)
    assert y.dtype == dx.dtype == dtype
    precise = "float64" if dtype == "float64" else "float32"
    size = 10.0 if dtype != "float64" else 1e6  # That of the inputs, whose rounding counts.
    oracles.assert_close(y, expected, dtype, 120, size)
    oracles.assert_close(dx, gradients[0], dtype, 120, size)
    oracles.assert_close(dgamma, np.ravel(gradients[1]), precise, 120, size)
    oracles.assert_close(dbeta, np.ravel(gradients[2]), precise, 120, size)
    oracles.assert_close(moving.mean, 0.01 * np.ravel(mean), precise, 120, size)
    oracles.assert_close(moving.variance, 0.99 + 0.01 * np.ravel(variance), precise, 120, size)


@pytest.mark.parametrize("has_weights", [False, True], ids=["plain", "weights"])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_second_order(offset, has_weights, rng):
    """The gradient of |d loss / d x|^2, against differences of the float64 oracle's gradients."""
    x = np.float32(rng.normal(offset, 1.0, (4, 3, 2)))
    dy, gamma = rng.normal(size=x.shape), np.array([1.5, -0.5])
    weights = rng.integers(1, 3, (4, 3)) if has_weights else None

    def loss(x, gamma):
        y, _ = kj.batch_norm(x, gamma, training=True, mask=weights, epsilon=EPSILON)
        return jnp.sum(y * jnp.asarray(dy, "float32"))

    def steepness(x, gamma):
        return jnp.sum(jnp.square(jax.grad(loss)(x, gamma)))

    def exact(x, gamma):
        dx, _, _ = oracles.batch_norm_gradients(x, dy, gamma, EPSILON, -1, weights)
        return np.sum(dx**2)

    of_x, of_gamma = jax.jit(jax.grad(steepness, (0, 1)))(x, jnp.asarray(gamma, "float32"))
    # The offset is left out of the differences, which would lose digits to it.
    near = np.float64(x) - offset
    oracles.assert_close(
        of_x, oracles.numerical_gradient(lambda x: exact(x, gamma), near), "float32", 100
    )
    oracles.assert_close(
        of_gamma, oracles.numerical_gradient(lambda g: exact(near, g), gamma), "float32", 100
    )


def test_third_order(float64, rng):
    x, dy = rng.normal(size=(2, 5, 2))

    def loss(x):
        y, _ = kj.batch_norm(x, training=True, epsilon=EPSILON)
        return jnp.sum(y * jnp.asarray(dy))

    @jax.jit
    def second(x):
        return jnp.sum(jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(x) ** 2)

    expected = oracles.numerical_gradient(lambda x: float(second(jnp.asarray(x))), x)
    np.testing.assert_allclose(jax.grad(second)(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [1, 2])
def test_batch_moments_have_gradients(float64, axis, rng):
    x, mask = rng.normal(size=(4, 3, 2)), np.arange(4) > 0

    @jax.jit
    def found(x):
        mean, variance, count = kj.batch_moments(x, axis=axis, mask=mask)
        return jnp.sum(jnp.sin(mean) + variance**2) + count

    def exact(x):
        count, mean, variance = oracles.moments(x, axis, mask)
        return np.sum(np.sin(mean) + variance**2) + count.flat[0]

    assert float(found(x)) == pytest.approx(exact(x), rel=1e-12)
    expected = oracles.numerical_gradient(exact, x)
    np.testing.assert_allclose(jax.grad(found)(x), expected, rtol=1e-7, atol=1e-8)


def test_inference(rng):
    x, dy = (jnp.asarray(rng.normal(size=(5, 4, 3)), "float32") for _ in range(2))
    gamma, beta, mean = (jnp.asarray(rng.normal(size=3), "float32") for _ in range(3))
    moving = kj.MovingStatistics(mean, jnp.array([0.5, 1.0, 2.0]))

    @jax.jit
    def run(x, gamma, beta):
        return kj.batch_norm(
            x, gamma, beta, moving=moving, training=False, epsilon=EPSILON, mask=jnp.arange(5) > 0
        )[0]

    y, pull = jax.vjp(run, x.at[0, 0, 0].set(jnp.nan), gamma, beta)
    inverse = 1.0 / np.sqrt(np.float64(moving.variance) + EPSILON)
    centred = np.float64(x) - np.float64(mean)
    centred[0, 0, 0] = 0.0
    expected = np.float64(gamma) * inverse * centred + np.float64(beta)
    dx, dgamma, dbeta = pull(dy)
    oracles.assert_close(y, expected)
    oracles.assert_close(dx, np.float64(gamma) * inverse * np.float64(dy))
    oracles.assert_close(dgamma, inverse * np.sum(np.float64(dy) * centred, (0, 1)), terms=20)
    oracles.assert_close(dbeta, np.sum(np.float64(dy), (0, 1)), terms=20)


def test_a_batch_in_which_nothing_counts_is_normalized_as_in_inference(rng):
    x = jnp.asarray(rng.normal(size=(4, 3)), "float32").at[0].set(jnp.inf)
    moving = kj.MovingStatistics(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.0, 2.0]))
    options = dict(moving=moving, mask=jnp.zeros(4))

    def run(x, training):
        y, after = kj.batch_norm(x, training=training, **options)
        return jnp.sum(y**2), (y, after)

    run = jax.jit(jax.value_and_grad(run, has_aux=True), static_argnums=1)
    (_, (y, after)), dx = run(x, True)
    (_, (expected, _)), expected_dx = run(x, False)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, moving)


def test_negative_and_nan_weights_count_as_zero():
    weights = jnp.array([1.0, 2.0, -1.0, jnp.nan])
    moments = kj.batch_moments(jnp.array([[0.0], [3.0], [9.0], [9.0]]), mask=weights)
    np.testing.assert_allclose([moments.mean[0], moments.variance[0], moments.count], [2, 2, 3])


@pytest.mark.parametrize("kind", [np.array, list], ids=["numpy", "list"])
def test_weights_of_more_than_32_bits(kind):
    moments = kj.batch_moments(jnp.array([[0.0], [1.0]]), mask=kind([3 * 2**32, 2**32]))
    np.testing.assert_allclose([moments.mean[0], moments.count], [0.25, 2**34])


def test_an_outlier_first_does_no_harm():
    """The anchor of plain JAX is the first value of a channel."""
    x = np.concatenate([[[1e6]], np.random.default_rng(3).normal(size=(999, 1))]).astype("float32")
    moments = kj.batch_moments(x)
    exact = np.float64(x)
    np.testing.assert_allclose(moments.mean[0], np.mean(exact), atol=1e-5 * np.std(exact))
    np.testing.assert_allclose(moments.variance[0], np.var(exact), rtol=1e-5)
