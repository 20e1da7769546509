"""Bad input gets one sentence."""

import jax.numpy as jnp
import pytest

import keras_norms.jax as kj

pytestmark = pytest.mark.main_leg
X = jnp.zeros((4, 3))
BAD = {
    "dtype": (dict(x=jnp.zeros((4, 3), int)), "`x` must be float16.*Received: dtype='int32'"),
    "rank": (dict(x=jnp.zeros(3)), r"2 axes or more. Received: shape=\(3,\)"),
    "empty": (dict(x=jnp.zeros((0, 3))), r"must hold values. Received: shape=\(0, 3\)"),
    "axis": (dict(axis=2), r"`axis` must be an int in \[-2, 2\). Received: axis=2"),
    "axes": (dict(axis=[0]), r"`axis` must be an int.*Received: axis=\[0\]"),
    "gamma": (dict(gamma=jnp.ones(4)), r"`gamma` must be.*3 channels. Received: shape=\(4,\)"),
    "beta": (dict(beta=jnp.ones(3, int)), "`beta` must be a float array.*dtype='int32'"),
    "moving": (
        dict(moving=kj.moving_statistics(2)),
        r"`moving.mean` must be a float array.*Received: shape=\(2,\)",
    ),
    "no_moving": (dict(training=False), "inference needs `moving`. Received: moving=None"),
    "training": (
        dict(training="yes"),
        "`training` must be a Python bool. Received: training='yes'",
    ),
    "mask": (dict(mask=jnp.ones(3)), r"a mask must have the shape.*mask_shape=\(3,\)"),
    "mask_rank": (dict(mask=jnp.ones((4, 3))), r"a mask must have.*mask_shape=\(4, 3\)"),
    "mask_dtype": (dict(mask=jnp.ones(4, complex)), "a mask must hold bools.*dtype='complex64'"),
    "epsilon": (
        dict(epsilon=-1.0),
        "`epsilon` must be a number of 0 or more. Received: epsilon=-1.0",
    ),
    "momentum": (dict(momentum=1.5), r"`momentum` must be in \[0, 1\]. Received: momentum=1.5"),
}


@pytest.mark.parametrize("case", BAD)
def test_batch_norm(case):
    arguments, sentence = BAD[case]
    with pytest.raises(ValueError, match=f"^batch_norm: .*{sentence}"):
        kj.batch_norm(**{"x": X, "training": True, **arguments})


def test_batch_moments():
    with pytest.raises(ValueError, match=r"^batch_moments: `axis` must be an int"):
        kj.batch_moments(X, axis=5)


def test_moving_statistics():
    with pytest.raises(ValueError, match="`channels` must be an int above 0. Received: channels=0"):
        kj.moving_statistics(0)
    with pytest.raises(ValueError, match="`dtype` must be float32 or float64.*'float16'"):
        kj.moving_statistics(1, jnp.float16)
    with pytest.raises(ValueError, match="^update_moving_statistics: `momentum` must be in"):
        kj.update_moving_statistics(kj.moving_statistics(3), kj.batch_moments(X), momentum=-0.1)
