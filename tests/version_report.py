"""What one row of the table of versions says besides its tests; `tests/matrix.py` runs it."""

import json

import numpy as np
import tensorflow as tf

import keras_norms
from keras_norms.cli.doctor import examine
from tests import oracles
from tests.layers.one_device import layer_with, tensors_of_step

OFFSET, SHAPE = 1e6, (16, 14, 14, 8)


def largest_error(implementation):
    """Of y and dx in a step that XLA compiles, in standard deviations of x, far from zero."""
    rng = np.random.default_rng(20)
    x, dy = rng.normal(OFFSET, 1.0, SHAPE).astype("f"), rng.normal(size=SHAPE).astype("f")
    layer = layer_with(SHAPE[-1], "float32", rng, len(SHAPE))
    gamma, beta = (np.asarray(tf.convert_to_tensor(w), float) for w in (layer.gamma, layer.beta))
    with keras_norms.implementation(implementation):
        step = tf.function(lambda x, dy: tensors_of_step(layer, x, dy), jit_compile=True)
        y, dx, *_ = step(tf.constant(x), tf.constant(dy))
    exact, _ = oracles.batch_norm(x, gamma, beta, layer.epsilon)
    exact_dx, *_ = oracles.batch_norm_gradients(x, dy, gamma, layer.epsilon)
    return max(np.abs(y - exact).max(), np.abs(dx - exact_dx).max())


if __name__ == "__main__":
    found = examine()
    is_available = found["native"]["available"]
    implementations = ["native", "reference"] if is_available else ["reference"]
    found["far_from_zero"] = {name: float(largest_error(name)) for name in implementations}
    print(json.dumps(found))
