"""The contenders of `layers.py`: training steps of one normalization, all with the same results.

A step is a function of x and dy that returns y, dx, dgamma, dbeta, and `done`, a small
value that exists only when all the work is done. Those of TensorFlow are concrete functions: what
`tf.function` takes to find the trace for its arguments, about 0.3 ms, says nothing about a layer.
"""

import contextlib
import ctypes
import pathlib
import subprocess
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from keras_norms.ops.choice import implementation_in_use

EPSILON = 1e-3


class Case(NamedTuple):
    """The shape of an activation, and where its channels are."""

    shape: tuple
    axis: int

    @classmethod
    def parse(cls, text):
        """`32x56x56x64`, or `nchw:32x64x56x56` for channels first."""
        layout, _, sizes = text.rpartition(":")
        return cls(tuple(map(int, sizes.split("x"))), 1 if layout == "nchw" else -1)

    def __str__(self):
        return ("NCHW " if self.axis == 1 else "") + "x".join(map(str, self.shape))


class Parameters(NamedTuple):
    """gamma and beta that are not 1 and 0, so that a check sees them."""

    gamma: np.ndarray
    beta: np.ndarray

    @classmethod
    def random(cls, channels):
        generator = np.random.default_rng(1)
        return cls(generator.uniform(0.5, 1.5, channels), generator.normal(0.0, 1.0, channels))


def keras_steps(case, dtype, parameters, jit):
    """Ours on each implementation that is available, and the stock layer."""
    implementations = {"ours": implementation_in_use()}
    if implementations["ours"] == "native":
        implementations["reference"] = "reference"
    steps = {}
    for name, implementation in {**implementations, "stock": None}.items():
        cls = keras_norms.BatchNormalization if implementation else keras.layers.BatchNormalization
        for compiled in (False, True) if jit else (False,):
            layer = cls(
                axis=case.axis,
                gamma_initializer=keras.initializers.Constant(parameters.gamma),
                beta_initializer=keras.initializers.Constant(parameters.beta),
                epsilon=EPSILON,
                dtype=f"mixed_{dtype.name}" if dtype.size < 4 else dtype.name,
            )
            layer.build(case.shape)
            step = step_function(layer, [layer.gamma, layer.beta], case.shape, dtype, compiled)
            # The choice of kernels is made when a function is traced.
            with keras_norms.implementation(implementation or "auto"):
                steps[f"{name} jit" if compiled else name] = step.get_concrete_function()
    return steps


def fused_step(case, dtype, parameters):
    """TensorFlow's fused operation, without moving statistics. None where it cannot run."""
    if dtype == tf.float64:
        return None
    gamma, beta = (tf.Variable(tf.cast(value, tf.float32)) for value in parameters)
    first = case.axis == 1

    def fused(x, training):
        # It takes rank 4 only.
        y, *_ = tf.compat.v1.nn.fused_batch_norm(
            x if len(case.shape) == 4 else tf.reshape(x, [case.shape[0], 1, -1, case.shape[-1]]),
            gamma,
            beta,
            epsilon=EPSILON,
            is_training=training,
            data_format="NCHW" if first else "NHWC",
        )
        return tf.reshape(y, case.shape)

    step = step_function(fused, [gamma, beta], case.shape, dtype).get_concrete_function()
    try:
        step(*(tf.zeros(case.shape, dtype) for _ in range(2)))
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
        return None
    return step


def step_function(normalize, parameters, shape, dtype, jit_compile=False):
    spec = tf.TensorSpec(shape, dtype)

    @tf.function(input_signature=[spec, spec], jit_compile=jit_compile)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = normalize(x, training=True)
        dx, dgamma, dbeta = tape.gradient(y, [x, *parameters], output_gradients=dy)
        # Small enough to wait for, and there only after y and dx.
        done = tf.stack([tf.reshape(y, [-1])[-1], tf.reshape(dx, [-1])[-1]])
        return {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta, "done": done}

    return step


def torch_step(case, dtype, parameters):
    """PyTorch on the CPU, with moving statistics. None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    channels = case.shape[case.axis]
    kind = getattr(torch, dtype.name)
    gamma, beta = (
        torch.tensor(value, dtype=torch.float32 if dtype.size < 8 else kind, requires_grad=True)
        for value in parameters
    )
    moving_mean, moving_variance = torch.zeros(channels), torch.ones(channels)
    if dtype.size == 8:
        moving_mean, moving_variance = moving_mean.double(), moving_variance.double()

    def to_torch(tensor):
        values = torch.tensor(tensor.numpy().astype(np.float64)).to(kind)
        # Channels last in memory, but second in PyTorch's order of axes.
        return values.permute(0, -1, *range(1, values.dim() - 1)) if case.axis == -1 else values

    def to_numpy(tensor):
        if case.axis == -1 and tensor.dim() > 1:
            tensor = tensor.permute(0, *range(2, tensor.dim()), 1)
        return tensor.detach().to(torch.float64).numpy()

    class Step:
        """Converts its arguments once, so that a timed call only computes."""

        arguments = None

        def __call__(self, x, dy):
            if self.arguments is None:
                self.arguments = to_torch(x).requires_grad_(), to_torch(dy)
            x, dy = self.arguments
            x.grad = gamma.grad = beta.grad = None
            y = torch.nn.functional.batch_norm(
                x, moving_mean, moving_variance, gamma, beta, training=True, eps=EPSILON
            )
            y.backward(dy)
            self.results = {"y": y, "dx": x.grad, "dgamma": gamma.grad, "dbeta": beta.grad}
            return {"done": np.ones(1)}  # On the CPU, PyTorch returns when the work is done.

        def values(self, x, dy):
            self(x, dy)
            return {name: to_numpy(tensor) for name, tensor in self.results.items()}

    return Step()


@contextlib.contextmanager
def copy_step(size):
    """A plain copy of that many bytes by two threads: what 2 of the 8 transfers cost.

    Yields None where there is no C++ compiler.
    """
    source = pathlib.Path(__file__).with_name("copy.cc")
    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder, "copy.so")
        flags = ["-O3", "-march=native", "-fno-tree-loop-distribute-patterns", "-fPIC", "-shared"]
        try:
            subprocess.run(["g++", *flags, source, "-o", library, "-lpthread"], check=True)
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        copy = ctypes.CDLL(str(library)).copy_floats
        copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        source, target = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)

        def step(x, dy):
            del x, dy
            copy(source.ctypes.data, target.ctypes.data, source.size)
            return {"done": target[-1:]}

        yield step
