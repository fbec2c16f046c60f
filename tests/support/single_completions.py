"""Completions with given sums of log-probs, and the value of a loss on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import Fn, fn
from alignjax.types import Array, Batch
from tests.support.tiny import standin


def completions(sums: Any, label: Any, reference: Any = 0.0, length: int = 3, n: int = 1) -> tuple[Array, Batch]:
    """Token log-probs [B,n,T] of the given sums, and a batch with the labels and the reference's sums."""
    sums, label = (jnp.asarray(x, float).reshape(-1, n) for x in (sums, label))
    shape = (*sums.shape, length)
    reference = jnp.broadcast_to(jnp.asarray(reference, float).reshape(-1, n if np.ndim(reference) else 1), sums.shape)
    batch = Batch(
        prompt=jnp.zeros((shape[0], 1), jnp.int32), prompt_valid=jnp.ones((shape[0], 1), bool),
        tokens=jnp.zeros(shape, jnp.int32), valid=jnp.ones(shape, bool), mask=jnp.ones(shape), reward=label,
        logps={"reference": jnp.broadcast_to(reference[..., None] / length, shape)},
    )  # fmt: skip
    return jnp.broadcast_to(sums[..., None] / length, shape), batch


@jax.jit
def _value(loss: Fn, logps: Array, batch: Batch, state: Any) -> Array:
    given = SimpleNamespace(score=standin(policy=logps).score, state=state)
    return loss(given, batch)[0].value()


def value(loss: Any, logps: Array, batch: Batch, state: Any = None, **hyper: Any) -> Array:
    made = loss.replace(**hyper) if isinstance(loss, Fn) else fn(loss, **hyper)
    return _value(made, logps, batch, state or {})
