"""`vmap` of a kernel is one call of it: what is mapped over becomes segments of rows."""

import functools

import jax
import jax.numpy as jnp


def over_segments(kernel, **options):
    """`kernel(..., **options)`, of arrays that have the segments first, with a rule for `vmap`."""
    return _mapped(kernel, tuple(options.items()))


@functools.cache
def _mapped(kernel, options):
    run = jax.custom_batching.custom_vmap(functools.partial(kernel, **dict(options)))

    @run.def_vmap
    def of_all(size, is_mapped, *operands):
        def as_segments(array, is_mapped):
            if not is_mapped:
                array = jnp.broadcast_to(array, (size, *array.shape))
            return array.reshape(-1, *array.shape[2:])

        results = run(*jax.tree.map(as_segments, operands, tuple(is_mapped)))
        apart = jax.tree.map(lambda array: array.reshape(size, -1, *array.shape[1:]), results)
        return apart, jax.tree.map(lambda _: True, results)

    return run
