"""The gradient slot of an algorithm: how an objective of several losses becomes one update direction."""

from __future__ import annotations

import jax

from alignjax.types import Context, Key, Metrics, Objective, Params


def backprop(objective: Objective, params: Params, context: Context, key: Key) -> tuple[Params, Metrics]:
    """The gradient of the sum of the losses (the default)."""

    def total(params: Params) -> tuple[jax.Array, Metrics]:
        losses, metrics = objective(params)
        return sum(losses.values(), start=jax.numpy.zeros(())), metrics

    return jax.grad(total, has_aux=True)(params)
