"""Four devices are one: `shard_map` with uneven masks and an empty shard, against the whole batch.

In a process of its own, since JAX counts its devices once. It has no TensorFlow either.
"""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.main_leg
PROGRAM = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
import keras_norms.jax as kj

P, rng = jax.sharding.PartitionSpec, np.random.default_rng(20)
mesh = jax.make_mesh((4,), ("shards",), axis_types=(jax.sharding.AxisType.Auto,))
x = jnp.asarray(rng.normal(1e6, 1.0, (8, 5, 3)), "float32")
dy, gamma, beta = (jnp.asarray(rng.normal(size=s), "float32") for s in ((8, 5, 3), 3, 3))
weights = rng.integers(1, 3, (8, 5)).astype("float32")
weights[2:4] = 0.0  # The second shard is empty,
weights[0:2, 1:] = 0.0  # and the first has few values.
x = x.at[2, 0, 0].set(jnp.nan)
moving = kj.moving_statistics(3)


def step(x, gamma, beta, weights, axis_name=None):
    return kj.batch_norm(
        x, gamma, beta, moving=moving, training=True, mask=weights, axis_name=axis_name
    )


def results(step):
    def loss(x, gamma, beta):
        y, moving = step(x, gamma, beta, weights)
        return jnp.sum(y * dy), (jnp.where(jnp.isnan(x), 0.0, y), moving)

    def steepness(x):
        return jnp.sum(jnp.square(jax.grad(loss, has_aux=True)(x, gamma, beta)[0]))

    first = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    return first, jax.jit(jax.grad(steepness))


first, second = results(step)
expected = first(x, gamma, beta), second(x)
for check in (True, False):
    over = jax.shard_map(
        lambda *arguments: step(*arguments, axis_name="shards"),
        mesh=mesh,
        in_specs=(P("shards"), P(), P(), P("shards")),
        out_specs=(P("shards"), P()),
        check_vma=check,
    )
    first, second = results(over)
    same = lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-5)
    jax.tree.map(same, first(x, gamma, beta), expected[0])
    if not check:
        break
    same(second(x), expected[1])
    whole = jax.jit(lambda x, weights: over(x, gamma, beta, weights)[0])
    back = jax.jit(lambda x, weights: jax.vjp(lambda x: whole(x, weights), x)[1](dy))
    texts = [f.lower(x, weights).compile().as_text() for f in (whole, back)]
    print([text.count(" all-reduce(") + text.count(" all-gather(") for text in texts])
print("tensorflow" in sys.modules)
"""


@pytest.mark.parametrize("implementation", ["native", "plain"])
def test_four_devices_are_one(implementation, request):
    """With one collective each way; and a process that imports JAX first has no TensorFlow."""
    if implementation == "native":
        request.getfixturevalue("native")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    if implementation == "plain":
        environment["KERAS_NORMS_NATIVE"] = "0"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines() == ["[1, 2]", "False"]


def test_collectives_are_in_one_file():
    """So that one exchange forward and one backward stay all there are."""
    folder = ROOT / "keras_norms" / "jax"
    users = [path.name for path in sorted(folder.glob("*.py")) if "lax.psum" in path.read_text()]
    assert users == ["shards.py"]
    assert "all_gather" not in "".join(path.read_text() for path in folder.glob("*.py"))
