"""The loss of a critic: what it says of a state, against the return that followed."""

from __future__ import annotations

import math

import jax.numpy as jnp

from alignjax.losses.decorators.declared import needs
from alignjax.losses.decorators.sequences import mask_of, scored
from alignjax.numerics import as_float32
from alignjax.ranges import Limit
from alignjax.types import Batch, Context, Mean, Metrics


@needs("returns", "completions")
def value_loss(
    context: Context, batch: Batch, *, output: str = "critic:value", clip: Limit = math.inf
) -> tuple[Mean, Metrics]:
    """Value loss: 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2), one mean over the tokens of the batch
    (arXiv:2307.04964; the clip is that of PPO's first implementation).

    Args:
        context: Scores the head.
        batch: Samples with returns R [B,N,T] and the values V_old when they were made, completions["values"].
        output: "critic:value", a critic with a trunk of its own, or "policy:value", a head of the policy's.
        clip: c, how far a value may move from the old one before the loss no longer falls with it; inf: any way.

    Returns:
        The mean over the tokens that count, completions of weight 0 left out; `values`, `error` (V - R, its mean is the
        critic's bias), `squared_error` and `clipped`, the share of tokens where the clipped value is worse.
    """
    # What does not count may hold anything, NaN included, so it is replaced before it is squared.
    mask = mask_of(batch) * batch.completions.get("weight", jnp.ones((1, 1)))[..., None]
    old = batch.need("completions", "values", of="value_loss")
    old, returns = (jnp.where(mask != 0, as_float32(x), 0) for x in (old, batch.need("returns", of="value_loss")))
    values = as_float32(scored(context, batch, output))
    plain = jnp.square(values - returns)
    held = jnp.square(jnp.clip(values, old - clip, old + clip) - returns)
    metrics = {
        "values": Mean.of(values, mask),
        "error": Mean.of(values - returns, mask),
        "squared_error": Mean.of(plain, mask),
        "clipped": Mean.of((held > plain).astype(jnp.float32), mask),
    }
    return Mean.of(jnp.maximum(plain, held) / 2, mask), metrics
