"""Stages of active exploration: an ensemble's weights, and which comparison is worth a label."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import masked_sum
from alignjax.stages.select import uniforms
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

__all__ = ["active_pairs", "bootstrap"]


def bootstrap(context: Context, batch: Batch, key: Key, *, members: int) -> Batch:
    """Fills prompts["bootstrap"] [B,members]: how much each member of an ensemble counts a prompt, independent
    exponential draws of mean 1 (the Bayesian bootstrap)."""
    weight = -jnp.log1p(-uniforms(batch, key, members))
    return batch.replace(prompts={**batch.prompts, "bootstrap": weight})


def _sums(context: Context, batch: Batch, role: str) -> Array:
    assert batch.mask is not None
    logps = batch.logps[role] if role in batch.logps else context.score(role, batch)[role]
    return masked_sum(logps, batch.mask)


def active_pairs(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    count: int,
    members: tuple[str, ...],
    beta: float = 0.1,
    width: float = 1.0,
    reference: str = "reference",
) -> tuple[Batch, Metrics]:
    """Spends labels where the best answer is least certain: keeps one pair of each of `count` prompts and gives all
    others pair_weight 0 (AE-DPO, arXiv:2312.00267).

    Rewards are the members' implicit ones, beta log(member / reference); UCB and LCB are their mean plus and minus
    `width` standard deviations. The prompts are those of the largest max_a UCB - max_a LCB; of each, the completion of
    the largest UCB, whose number goes to prompts["optimistic"], is compared with one of the others at random. The
    acquisition is recalled from the paper; an ensemble in the place of its estimate of uncertainty is our choice.
    Raises ConfigError with fewer than two members or completions, or if count is not between 1 and the batch size.
    """
    assert batch.tokens is not None
    rows, n = batch.tokens.shape[:2]
    if len(members) < 2 or n < 2 or not 1 <= count <= rows:
        raise ConfigError(f"active_pairs(count={count}, members={members}) on {rows} prompts of {n} completions")
    against = _sums(context, batch, reference)
    reward = beta * jnp.stack([_sums(context, batch, member) - against for member in members])
    middle, spread = jnp.mean(reward, axis=0), width * jnp.std(reward, axis=0)
    unsure = jnp.max(middle + spread, axis=1) - jnp.max(middle - spread, axis=1)
    order, rival = jax.random.split(key)
    # Members that agree on everything, as at the start, leave the choice to chance.
    ranked = jnp.lexsort((uniforms(batch, order, 1)[:, 0], -unsure))
    chosen = jnp.zeros(rows).at[ranked[:count]].set(1.0)
    first = jnp.argmax(middle + spread, axis=1)
    other = jnp.argmax(jnp.where(jnp.arange(n) == first[:, None], -1, uniforms(batch, rival, n)), axis=1)
    row = jnp.arange(rows)
    weight = jnp.zeros((rows, n, n)).at[row, first, other].set(chosen).at[row, other, first].set(chosen)
    metrics = {"uncertainty": Mean.of(unsure), "uncertainty_of_labelled": Mean.of(unsure, chosen)}
    weight = weight if batch.pair_weight is None else batch.pair_weight * weight
    return batch.replace(pair_weight=weight, prompts={**batch.prompts, "optimistic": first}), metrics
