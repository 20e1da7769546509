"""A small network in plain JAX, trained with batch norm on padded sets far from zero.

Each example is a set of up to 20 measurements around 1e4, padded with NaN. The label tells whether
its second channel grows with its first. Parameters and moving statistics are values that a step
takes and returns.

    python examples/jax_batch_norm.py
"""

import jax
import jax.numpy as jnp
import numpy as np

import keras_norms.jax as norms

SIZE, CHANNELS, UNITS = 20, 2, 16


def data(seed, examples=512):
    """Sets, padded to `SIZE`; which positions are there; labels."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, examples)
    x = generator.normal(size=(examples, SIZE, CHANNELS))
    x[..., 1] = 0.6 * x[..., 1] + 0.8 * x[..., 0] * (2 * label - 1)[:, None]
    mask = np.arange(SIZE) < generator.integers(5, SIZE + 1, (examples, 1))
    x = np.where(mask[..., None], 1e4 + x, np.nan)
    return jnp.asarray(x, jnp.float32), jnp.asarray(mask), jnp.asarray(label)


def initial(key):
    hidden, out = jax.random.split(key)
    parameters = {
        "hidden": jax.random.normal(hidden, (CHANNELS, UNITS)) * 0.5,
        "gamma": jnp.ones(UNITS),
        "beta": jnp.zeros(UNITS),
        "out": jax.random.normal(out, (UNITS, 2)) * 0.2,
    }
    moving = [norms.moving_statistics(CHANNELS), norms.moving_statistics(UNITS)]
    return parameters, moving


def network(parameters, moving, x, mask, training):
    """Logits, and the moving statistics after this batch."""
    options = dict(mask=mask, momentum=0.9, training=training)
    x, of_inputs = norms.batch_norm(x, moving=moving[0], **options)
    gamma, beta = parameters["gamma"], parameters["beta"]
    x, of_hidden = norms.batch_norm(
        x @ parameters["hidden"], gamma, beta, moving=moving[1], **options
    )
    pooled = jnp.sum(jax.nn.relu(x) * mask[..., None], 1) / jnp.sum(mask, 1, keepdims=True)
    return pooled @ parameters["out"], [of_inputs, of_hidden]


@jax.jit
def step(parameters, moving, x, mask, label):
    def loss(parameters):
        logits, after = network(parameters, moving, x, mask, training=True)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1)
        return -jnp.mean(chosen), after

    gradients, after = jax.grad(loss, has_aux=True)(parameters)
    return jax.tree.map(lambda p, g: p - 0.5 * g, parameters, gradients), after


def main():
    parameters, moving = initial(jax.random.key(0))
    x, mask, label = data(0)
    for _ in range(100):
        parameters, moving = step(parameters, moving, x, mask, label)
    x, mask, label = data(1)
    logits, _ = network(parameters, moving, x, mask, training=False)
    accuracy = float(jnp.mean(jnp.argmax(logits, 1) == label))
    print(f"Accuracy on new sets: {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
