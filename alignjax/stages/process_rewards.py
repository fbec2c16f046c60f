"""The stage that turns a process reward model's verdicts on steps into a reward."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from alignjax.numerics import last_valid, step_ends
from alignjax.ranges import Natural
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def process_reward(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    role: str = "reward",
    separators: tuple[Natural, ...] = (),
    reduction: Literal["last", "min", "product"] = "min",
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N] with the probability that a process reward model gives to a whole solution: p of its last
    step, the least p, or the product of all, p = S(r) (arXiv:2305.20050, which multiplies; min: arXiv:2312.08935).

    The product is the probability that all steps are right where p is that of a step given that those before it are;
    the last is that of a right end where labels say whether a prefix can still succeed.

    Args:
        context: Scores the role's reward head.
        batch: Completions [B,N,T].
        key: Not used.
        role: What `losses.process_supervision` trained.
        separators: The tokens between steps, as there.
        reduction: "last", "min" or "product".

    Returns:
        The batch; completions["weight"] is 0 for one without a step. Metrics: `reward`, and `steps` of a completion.
    """
    valid = batch.need("valid", of="process_reward")
    ends = step_ends(batch.need("tokens", of="process_reward"), valid, separators)
    logps = jax.nn.log_sigmoid(context.score(f"{role}:reward", batch)[f"{role}:reward"].astype(jnp.float32))
    total = _reduced(jnp.where(ends, logps, 0), ends, reduction)
    some = jnp.any(ends, axis=-1).astype(jnp.float32)
    reward = jnp.where(some != 0, jnp.exp(total), 0)
    steps = Mean.of(jnp.sum(ends, axis=-1).astype(jnp.float32))
    completions = {**batch.completions, "weight": some}
    return batch.replace(reward=reward, completions=completions), {"reward": Mean.of(reward, some), "steps": steps}


def _reduced(logps: Array, ends: Array, reduction: str) -> Array:
    """Log-probabilities of completions from those at their steps' ends; elsewhere they are 0, which is the greatest."""
    if reduction == "last":
        return last_valid(logps, ends)
    return jnp.min(logps, axis=-1) if reduction == "min" else jnp.sum(logps, axis=-1)
