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

        if size == 0:
            return _nothing(run, operands, tuple(is_mapped))
        results = run(*jax.tree.map(as_segments, operands, tuple(is_mapped)))
        apart = jax.tree.map(lambda array: array.reshape(size, -1, *array.shape[1:]), results)
        return apart, jax.tree.map(lambda _: True, results)

    return run


def _nothing(run, operands, is_mapped):
    """What `vmap` returns for no examples, told from what there would be for one."""

    def of_one(array, is_mapped):
        return jax.ShapeDtypeStruct(array.shape[1 if is_mapped else 0 :], array.dtype)

    one = jax.eval_shape(run, *jax.tree.map(of_one, operands, is_mapped))
    apart = jax.tree.map(lambda result: jnp.zeros((0, *result.shape), result.dtype), one)
    return apart, jax.tree.map(lambda _: True, one)
