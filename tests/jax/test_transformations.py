"""`vmap` is a loop, `checkpoint` changes nothing, and `vmap` costs one call of each kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import keras_norms.jax as kj

pytestmark = [pytest.mark.main_leg, pytest.mark.usefixtures("implementation")]


def step(x, gamma, mask=None):
    """The gradients of a loss of y."""

    def loss(x, gamma):
        y, _ = kj.batch_norm(x, gamma, training=True, mask=mask)
        return jnp.sum(jnp.sin(y))

    return jax.grad(loss, (0, 1))(x, gamma)


@pytest.fixture
def gradients():
    """`step`, compiled for this test only: the kernels are chosen when it is traced."""
    return jax.jit(lambda *arguments: step(*arguments))


@pytest.fixture
def data(rng):
    x = jnp.asarray(rng.normal(1e6, 1.0, (3, 4, 5, 2)), "float32")
    gamma = jnp.asarray(rng.normal(size=(3, 2)), "float32")
    mask = jnp.asarray(rng.integers(0, 2, (3, 4, 5))).at[:, 0].set(1)
    return x, gamma, mask


def assert_same(found, expected):
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-6, atol=1e-6), found, expected
    )


def stacked(results):
    return jax.tree.map(lambda *rows: jnp.stack(rows), *results)


def test_vmap_is_a_loop(data, gradients):
    found = jax.jit(jax.vmap(step))(*data)
    assert_same(found, stacked([gradients(*row) for row in zip(*data, strict=True)]))


def test_vmap_of_some_operands_along_any_axis(data, gradients):
    x, gamma, mask = data
    found = jax.jit(jax.vmap(step, (2, None, None)))(jnp.moveaxis(x, 0, 2), gamma[0], mask[0])
    assert_same(found, stacked([gradients(row, gamma[0], mask[0]) for row in x]))


def test_nested_vmap(data, gradients):
    x, gamma, _ = data
    found = jax.jit(jax.vmap(jax.vmap(step, (None, 0)), (0, None)))(x, gamma)
    assert_same(found, stacked([stacked([gradients(row, g) for g in gamma]) for row in x]))


def test_vmap_of_nothing(data):
    nothing = [array[:0] for array in data]
    of_x, of_gamma = jax.vmap(step)(*nothing)
    assert of_x.shape == nothing[0].shape
    assert of_gamma.shape == nothing[1].shape


def test_gradient_of_vmap(data, gradients):
    x, gamma, _ = data

    def loss(x):
        y, _ = jax.vmap(lambda x, gamma: kj.batch_norm(x, gamma, training=True))(x, gamma)
        return jnp.sum(jnp.sin(y))

    expected = stacked([gradients(*row)[0] for row in zip(x, gamma, strict=True)])
    assert_same(jax.jit(jax.grad(loss))(x), expected)


def test_checkpoint(data, gradients):
    x, gamma, _ = data

    @jax.checkpoint
    def loss(x, gamma):
        y, _ = kj.batch_norm(x, gamma, training=True)
        return jnp.sum(jnp.sin(y))

    assert_same(jax.jit(jax.grad(loss, (0, 1)))(x[0], gamma[0]), gradients(x[0], gamma[0]))


def test_an_axis_of_vmap_shares_statistics(data):
    x, gamma, mask = data

    def shared(x, mask):
        return kj.batch_norm(x, gamma[0], training=True, mask=mask, axis_name="shards")[0]

    y = jax.jit(jax.vmap(shared, axis_name="shards"))(x, mask)

    @jax.jit
    def on_one(x, mask):
        return kj.batch_norm(x, gamma[0], training=True, mask=mask)[0]

    whole = on_one(x.reshape(12, 5, 2), mask.reshape(12, 5))
    assert_same(y.reshape(12, 5, 2), whole)


def test_a_step_is_four_calls_of_the_library(implementation, data):
    """moments, blend, sums, blend: 8 transfers of the activation; none of them without it."""
    text = jax.jit(jax.vmap(step)).lower(*data).as_text()
    calls = [text.count(f"@keras_norms_{name}_pairs") for name in ("moments", "sums", "blend")]
    assert calls == ([1, 1, 2] if implementation == "native" else [0, 0, 0])
