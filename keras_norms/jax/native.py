"""The kernels of the compiled library: one FFI call each on a CPU, `plain.py` on other platforms.

Signatures and meaning are those of `plain.py`. The library computes sums and means in float64,
whether JAX has it or not; here they arrive as float32, a mean as a pair.
"""

import jax
import jax.numpy as jnp
import numpy as np

from keras_norms.jax import plain
from keras_norms.jax.operands import Parts, vector_dtype
from keras_norms.jax.pairs import Pair
from keras_norms.jax.shards import of_the_same_shards

_CHANNEL_AXIS = 1  # Of (segments * rows, channels, inner).


def moments(x, weights):
    def on_cpu(x, weights):
        channels = x.shape[2]
        results = [_vectors(x, 1), _vectors(x, channels, pairs=True), _vectors(x, channels)]
        count, mean, m2 = _call("moments", results, x.shape[1], x=x, weights=weights)
        return Parts(count, Pair(mean[0], mean[1]), m2)

    return jax.lax.platform_dependent(x, weights, cpu=on_cpu, default=plain.moments)


def sums(operands, weighted):
    def on_cpu(operands):
        x = operands.u if operands.v is None else operands.v
        results = [_vectors(x, x.shape[2])] * (1 if operands.v is None else 2)
        return tuple(_call("sums", results, x.shape[1], weighted=weighted, **operands._asdict()))

    def elsewhere(operands):
        return plain.sums(operands, weighted)

    return jax.lax.platform_dependent(operands, cpu=on_cpu, default=elsewhere)


def blend(operands, weighted):
    def on_cpu(operands):
        x = operands.u if operands.v is None else operands.v
        result = jax.ShapeDtypeStruct(_flat(x).shape, x.dtype)
        (y,) = _call("blend", [result], x.shape[1], weighted=weighted, **operands._asdict())
        return y.reshape(x.shape)

    def elsewhere(operands):
        return plain.blend(operands, weighted)

    return jax.lax.platform_dependent(operands, cpu=on_cpu, default=elsewhere)


def _call(kernel, results, segment_size, weighted=None, **operands):
    """Calls a handler with the operands that are there, whose names it is told in order."""
    given = {name: value for name, value in operands.items() if value is not None}
    attributes = {} if weighted is None else {"weighted": weighted}
    call = jax.ffi.ffi_call(f"keras_norms_{kernel}_pairs", results)
    buffers = [_buffer(operand) for operand in given.values()]
    found = call(
        *buffers,
        operands=" ".join(given),
        axis=np.int64(_CHANNEL_AXIS),
        segment_size=np.int64(segment_size),
        **attributes,
    )
    # What a call returns has no shards for `jax.shard_map`, though it differs as its operands do.
    return of_the_same_shards((found, buffers))[0]


def _buffer(operand):
    if isinstance(operand, Pair):
        return jnp.stack(operand)
    return _flat(operand) if operand.ndim == 4 else operand


def _flat(activation):
    """(segments, rows, channels, inner) as the library sees it: segments are runs of rows."""
    return activation.reshape(-1, *activation.shape[2:])


def _vectors(x, size, pairs=False):
    shape = (x.shape[0], size)
    return jax.ShapeDtypeStruct((2, *shape) if pairs else shape, vector_dtype(x))
