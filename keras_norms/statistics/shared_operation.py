"""The plain formula over replicas: as few operations as two collectives leave room for.

forward    Moments -> one packed exchange -> Normalize of x with the parts of all
backward   Sums -> one packed sum -> NormalizeGrad with the sums of all
beyond     the gradient of the backward pass is that of the composite

Layers that do not depend on each other share the two exchanges.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_norms.ops import kernels, native
from keras_norms.ops.rectifier import Rectifier
from keras_norms.statistics.composite import Normalized, normalize_by_composite
from keras_norms.statistics.moments import MOMENTS, Statistic
from keras_norms.statistics.moving_average import MovingUpdate
from keras_norms.statistics.one_operation import run_normalize, run_normalize_grad, statistics_of
from keras_norms.statistics.standardization import Standardization


class SharedCall(NamedTuple):
    """One of the layers; see `normalize_batch`. The transform has no extras."""

    x: tf.Tensor
    transform: Standardization
    parameters: dict
    statistic: Statistic
    axis: int
    residual: tf.Tensor | None
    rectifier: Rectifier | None
    moving: MovingUpdate | None

    @property
    def given(self):
        """What gradients flow to, by name."""
        residual = {} if self.residual is None else {"residual": self.residual}
        return {"x": self.x, **residual, **self.parameters}

    @property
    def attributes(self):
        return dict(epsilon=repr(float(self.transform.epsilon)), axis=self.axis)

    def normalized(self, here, parts):
        plain = self.moving is not None and self.moving.rule.is_plain
        update = self.moving if plain else None
        return run_normalize(here, update, parts=parts, rectifier=self.rectifier, **self.attributes)

    def composite(self, here, group):
        """`y` in operations that are differentiable to any order."""
        parameters = {name: here[name] for name in self.parameters}
        after = dict(residual=here.get("residual"), rectifier=self.rectifier)
        options = dict(axis=self.axis, group=group, **after)
        return normalize_by_composite(here["x"], self.transform, parameters, **options).y


def normalize_over_replicas(calls, group):
    """Returns what `normalize_batch` does for each of the `SharedCall`s."""
    names = [list(call.given) for call in calls]

    def by_name(tensors):
        rest = iter(tensors)
        return [{name: next(rest) for name in of_call} for of_call in names]

    @tf.custom_gradient
    def forward(*tensors):
        own = [
            native.moments(here["x"], axis=call.axis)
            for call, here in zip(calls, by_name(tensors), strict=True)
        ]
        rows = group.rows_to_merge(own, MOMENTS.merge)
        found = [
            call.normalized(here, parts)
            for call, here, parts in zip(calls, by_name(tensors), rows, strict=True)
        ]

        @tf.custom_gradient
        def backward(dys, *tensors):
            each = list(zip(calls, by_name(tensors), found, dys, strict=True))
            dzs = [
                dy if call.rectifier is None else call.rectifier.gradient(dy, y)
                for call, _, (y, *_), dy in each
            ]
            own = [
                tf.concat(kernels.sums(u=dz, v=here["x"], center=mean, axis=call.axis), 0)
                for (call, here, (_, _, mean, *_), _), dz in zip(each, dzs, strict=True)
            ]
            gradients = []
            for (call, here, (_, *statistics), _), dz, here_sums, of_all in zip(
                each, dzs, own, group.sum(own), strict=True
            ):
                sums = dict(own_sums=[here_sums], sums=[of_all])
                dx, dgamma, dbeta = run_normalize_grad(
                    dz, here, statistics[:3], **sums, **call.attributes
                )
                of_call = dict(x=dx, residual=dz, gamma=dgamma, beta=dbeta)
                gradients += [of_call[name] for name in here]

            def beyond(*of_gradients):
                with tf.GradientTape() as outer:
                    outer.watch([dys, tensors])
                    with tf.GradientTape() as inner:
                        inner.watch(tensors)
                        again = [
                            call.composite(here, group)
                            for call, here in zip(calls, by_name(tensors), strict=True)
                        ]
                    first = inner.gradient(again, tensors, output_gradients=list(dys))
                of_dys, of_tensors = outer.gradient(
                    first, [list(dys), list(tensors)], output_gradients=list(of_gradients)
                )
                return of_dys, *of_tensors

            return gradients, beyond

        sizes = [len(of_call) for of_call in found]

        def gradient(*gradients):
            firsts = [sum(sizes[:i]) for i in range(len(sizes))]
            return backward([gradients[first] for first in firsts], *tensors)

        return [value for of_call in found for value in of_call], gradient

    rest = iter(forward(*(value for call in calls for value in call.given.values())))
    results = []
    for call in calls:
        y, count, mean, variance = (next(rest) for _ in range(4))
        plain = call.moving is not None and call.moving.rule.is_plain
        moved = tuple(next(rest) for _ in range(2)) if plain else None
        statistics = statistics_of(call.statistic, count, mean, variance)
        results.append(Normalized(y, statistics, (), moved))
    return results
