"""Bad input gets one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import keras_norms.jax as kj

pytestmark = pytest.mark.main_leg
X = jnp.zeros((4, 3))
V = jnp.ones(3)
MOVING = kj.MovingStatistics(V, V)
MOMENTS = kj.Moments(V, V, jnp.float32(4))
NO_MOMENTUM = r"`momentum` must be a number in \[0, 1\] or a float array of shape \(\). Received: "
NO_EPSILON = (
    "`epsilon` must be a finite number that is not traced, 0 or at least 1.2e-38. Received: "
)
NO_NAMES = "`axis_name` must be None, a str or a tuple of distinct ones. Received: "
BAD = {
    "dtype": (dict(x=jnp.zeros((4, 3), int)), "`x` must be a float16.*dtype='int32'"),
    "x_none": (dict(x=None), "`x` must be an array of numbers. Received: x=None"),
    "x_text": (dict(x="abc"), "`x` must be an array of numbers. Received: x='abc'"),
    "x_object": (dict(x=object()), "`x` must be an array of numbers. Received: type='object'"),
    "x_key": (dict(x=jax.random.key(0)), r"`x` must be a float16.*dtype='key<fry>'"),
    "rank": (dict(x=jnp.zeros(3)), r"2 axes or more. Received: shape=\(3,\)"),
    "empty": (dict(x=jnp.zeros((0, 3))), r"must hold values. Received: shape=\(0, 3\)"),
    "axis": (dict(axis=2), r"`axis` must be an int in \[-2, 2\). Received: axis=2"),
    "axes": (dict(axis=[0]), r"`axis` must be an int.*Received: axis=\[0\]"),
    "gamma": (dict(gamma=jnp.ones(4)), r"`gamma` must be a .*shape \(3,\). .*shape=\(4,\)"),
    "gamma_text": (dict(gamma="abc"), "`gamma` must be an array of numbers. Received: gamma='abc'"),
    "gamma_8": (dict(gamma=V.astype(jnp.float8_e4m3fn)), "`gamma` must be.*dtype='float8_e4m3fn'"),
    "beta": (dict(beta=jnp.ones(3, int)), "`beta` must be a float16.*dtype='int32'"),
    "moving": (
        dict(moving=kj.moving_statistics(2)),
        r"`moving.mean` must be a float32 or float64 array of shape \(3,\). .*shape=\(2,\)",
    ),
    "moving_none": (
        dict(moving=kj.MovingStatistics(None, V)),
        "`moving.mean` must be an array of numbers. Received: moving.mean=None",
    ),
    "moving_half": (
        dict(moving=kj.MovingStatistics(V, V.astype(jnp.bfloat16))),
        "`moving.variance` must be a float32 or float64 array.*dtype='bfloat16'",
    ),
    "no_moving": (
        dict(training=False),
        "inference needs `moving`, from training or from `moving_statistics",
    ),
    "training": (
        dict(training="yes"),
        "`training` must be a Python bool. Received: training='yes'",
    ),
    "mask": (dict(mask=jnp.ones(3)), r"`mask` must have the shape.*mask_shape=\(3,\)"),
    "mask_rank": (dict(mask=jnp.ones((4, 3))), r"`mask` must have.*mask_shape=\(4, 3\)"),
    "mask_dtype": (dict(mask=jnp.ones(4, complex)), "`mask` must hold bools.*dtype='complex64'"),
    "mask_text": (dict(mask="abc"), "`mask` must be an array of numbers. Received: mask='abc'"),
    "mask_ragged": (
        dict(mask=[1, [2, 3]]),
        "`mask` must be an array of numbers. Received: type='list'",
    ),
    "epsilon": (dict(epsilon=-1.0), f"{NO_EPSILON}epsilon=-1.0"),
    "epsilon_tiny": (dict(epsilon=1e-40), f"{NO_EPSILON}epsilon=1e-40"),
    "epsilon_array": (dict(epsilon=np.ones(1)), rf"{NO_EPSILON}shape=\(1,\)"),
    "momentum": (dict(momentum=1.5), f"{NO_MOMENTUM}momentum=1.5"),
    "momentum_array": (dict(momentum=jnp.ones(3)), rf"{NO_MOMENTUM}shape=\(3,\)"),
    "momentum_known": (dict(momentum=jnp.float32(-0.5)), f"{NO_MOMENTUM}momentum=-0.5"),
    "momentum_nan": (dict(momentum=np.float32("nan")), f"{NO_MOMENTUM}momentum=nan"),
    "axis_name": (dict(axis_name=1), f"{NO_NAMES}axis_name=1"),
    "axis_names": (dict(axis_name=("a", "a")), rf"{NO_NAMES}axis_name=\('a', 'a'\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_batch_norm(case):
    arguments, sentence = BAD[case]
    with pytest.raises(ValueError, match=f"^batch_norm: .*{sentence}"):
        kj.batch_norm(**{"x": X, "training": True, **arguments})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("moving", [(V, V), {}, 0, False, X], ids=lambda m: type(m).__name__)
def test_moving_of_another_type(moving, training):
    with pytest.raises(
        ValueError, match="^batch_norm: `moving` must be MovingStatistics.mean, variance. or None"
    ):
        kj.batch_norm(X, moving=moving, training=training)


@pytest.mark.parametrize("case", ["moving", "moving_none", "axis_name", "axis_names"])
def test_inference(case):
    arguments, sentence = BAD[case]
    with pytest.raises(ValueError, match=f"^batch_norm: .*{sentence}"):
        kj.batch_norm(X, **{"moving": MOVING, **arguments}, training=False)


@pytest.mark.parametrize("momentum", [V, jnp.int32(1)], ids=["shape", "dtype"])
def test_traced_momentum(momentum):
    step = jax.jit(lambda momentum: kj.batch_norm(X, training=True, momentum=momentum))
    with pytest.raises(ValueError, match=r"^batch_norm: `momentum` must be.* array of shape \(\)"):
        step(momentum)


def test_numbers_may_be_arrays_of_shape_0_and_fields_lists():
    expected = kj.update_moving_statistics(MOVING, MOMENTS, 0.5)
    for momentum in (np.array(0.5), np.float32(0.5), jnp.array(0.5), jnp.bfloat16(0.5)):
        found = kj.update_moving_statistics(MOVING, MOMENTS, momentum)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    lists = kj.MovingStatistics([1.0] * 3, [1.0] * 3)
    for epsilon in (np.array(0.5), jnp.float32(0.5), 0):
        y, moving = kj.batch_norm(X, moving=lists, training=False, epsilon=epsilon)
        np.testing.assert_allclose(y, -np.ones((4, 3)) / np.sqrt(1.0 + float(epsilon)), rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, moving, MOVING)


def test_batch_moments():
    with pytest.raises(ValueError, match=r"^batch_moments: `axis` must be an int"):
        kj.batch_moments(X, axis=5)
    with pytest.raises(ValueError, match="^batch_moments: `axis_name` must be None"):
        kj.batch_moments(X, axis_name=("a", 1))
    with pytest.raises(ValueError, match="^batch_moments: `x` must be an array of numbers"):
        kj.batch_moments(None)


@pytest.mark.parametrize("channels", [0, True, 2.0, 2**31, "3"])
def test_channels_of_moving_statistics(channels):
    with pytest.raises(ValueError, match="`channels` must be an int above 0 and below 2.31. Rec"):
        kj.moving_statistics(channels)


@pytest.mark.parametrize("dtype", [jnp.float16, int, None, "abc"])
def test_dtype_of_moving_statistics(dtype):
    with pytest.raises(ValueError, match="`dtype` must be float32 or float64. Received: dtype='"):
        kj.moving_statistics(1, dtype)


def test_float64_needs_64_bits(float64):
    assert kj.moving_statistics(1, jnp.float64).mean.dtype == jnp.float64
    with jax.enable_x64(False), pytest.raises(ValueError, match="where JAX has 64 bits off"):
        kj.moving_statistics(1, jnp.float64)


UPDATES = {
    "swapped": (MOMENTS, MOVING, "`moving` must be MovingStatistics. Received: type='Moments'"),
    "none": (None, MOMENTS, "`moving` must be MovingStatistics. Received: moving=None"),
    "tuple": (MOVING, (V, V, 4.0), "`moments` must be Moments. Received: type='tuple'"),
    "ints": (kj.MovingStatistics(V.astype(int), V), MOMENTS, "`moving.mean` must be.*'int32'"),
    "shape": (kj.moving_statistics(1), MOMENTS, r"`moments.mean` must be .*shape \(1,\)"),
    "variance": (kj.MovingStatistics(V, V[:1]), MOMENTS, r"`moving.variance` must be .*\(3,\)"),
    "count": (MOVING, MOMENTS._replace(count=V), r"`moments.count` must be a scalar.*\(3,\)"),
    "no_count": (
        MOVING,
        MOMENTS._replace(count=None),
        "`moments.count` must be an array of numbers",
    ),
}


@pytest.mark.parametrize("case", UPDATES)
def test_update_moving_statistics(case):
    *arguments, sentence = UPDATES[case]
    with pytest.raises(ValueError, match=f"^update_moving_statistics: {sentence}"):
        kj.update_moving_statistics(*arguments)


def test_momentum_of_update_moving_statistics():
    with pytest.raises(ValueError, match="^update_moving_statistics: `momentum` must be"):
        kj.update_moving_statistics(MOVING, MOMENTS, momentum=-0.1)
