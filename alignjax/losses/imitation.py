"""Imitation of completions as far as their reward deserves it: filtered, weighted, or under the instruction that they
turned out to satisfy. `batch.reward` [B,N] may be on any scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.pairwise import mask_of, sequence_logps
from alignjax.losses.decorators.unpaired import counted, rewards
from alignjax.numerics import token_logps
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["filtered_mle", "hir", "reward_weighted_regression"]


def filtered_mle(
    context: Context,
    batch: Batch,
    *,
    threshold: float | None = None,
    fraction: float | None = None,
    role: str = "policy",
) -> tuple[Mean, Metrics]:
    """Filtered likelihood: mean of -log policy over the tokens of the completions with reward >= c (arXiv:2308.12050).

    Nats per token; `sft` on the best completions. c is `threshold`, or the reward of the last of the best `fraction` of
    the completions of the whole batch, all devices together (rounded up; ties with it are kept). Metric `kept`: the
    share that was. Raises ConfigError unless exactly one of the two is given, or if the batch has no reward.
    """
    if (threshold is None) == (fraction is None):
        raise ConfigError("filtered_mle takes either threshold (a reward) or fraction (of the batch), exactly one")
    there = counted(batch)
    reward = jnp.where(there != 0, rewards(batch, "filtered_mle"), -jnp.inf)
    cut: Any = threshold if fraction is None else _top(reward, there, fraction)
    keep = there * (reward >= cut)
    (logps,) = context.score(role, batch).values()
    weight = mask_of(batch) * keep[..., None].astype(logps.dtype)
    return Mean.of(-logps, weight), {"kept": Mean.of(keep, there), "reward": Mean.of(reward, keep)}


def _top(reward: Array, there: Array, fraction: float) -> Array:
    """The reward of the last of the best `fraction` of the completions that are there."""
    number = jnp.sum(there)
    # fraction * number may come out a rounding above a whole number, which would keep one completion too many
    best = jnp.clip(jnp.ceil(fraction * number - 1e-4), 1, jnp.maximum(number, 1)).astype(jnp.int32)
    return jnp.sort(reward.reshape(-1), descending=True)[best - 1]


def reward_weighted_regression(
    context: Context, batch: Batch, *, beta: float = 1.0, role: str = "policy"
) -> tuple[Mean, Metrics]:
    """Reward-weighted regression: mean of -log policy over tokens, weighted with exp(r / beta) of their completion, r
    the reward (arXiv:2308.12050).

    Nats per token. The weights are normalised over the whole batch, all devices together, so a constant added to all
    rewards changes nothing. beta: temperature in units of reward; beta -> infinity is `sft`, beta -> 0 `sft` on the
    best completion alone. Metric `effective`: the share of completions that the weights amount to (1 if all are equal).
    Raises ConfigError if the batch has no reward.
    """
    there = counted(batch)
    reward = jnp.where(there != 0, rewards(batch, "reward_weighted_regression"), -jnp.inf)
    best = jnp.max(reward)
    # Relative to the best, so that no exponent is above 0; the inner where keeps inf - inf out.
    weight = jnp.where(there != 0, jnp.exp(jnp.where(there != 0, reward - best, 0) / beta), 0)
    (logps,) = context.score(role, batch).values()
    effective = jnp.square(jnp.sum(weight)) / jnp.maximum(jnp.sum(jnp.square(weight)), 1e-30)
    metrics = {"effective": Mean(effective, jnp.sum(there)), "reward": Mean.of(reward, weight)}
    return Mean.of(-logps, mask_of(batch) * weight[..., None].astype(logps.dtype)), metrics


def smoothed_read(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Per token: its log-prob, the mean log-prob over the vocabulary, and the entropy; nats."""
    (logits,) = outputs.values()
    logps = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
    entropy = -jnp.sum(jnp.exp(logps) * logps, axis=-1)
    return {"logps": token_logps(logits, token), "uniform": jnp.mean(logps, axis=-1), "entropy": entropy}


def hir(
    context: Context,
    batch: Batch,
    *,
    epsilon: float = 0.2,
    contrast: float = 1.0,
    entropy: float = 0.001,
    role: str = "policy",
) -> tuple[Mean, Metrics]:
    """Hindsight instruction relabelling: smoothed NLL(y; match) + contrast smoothed -log(a / (a + b)) - entropy H, with
    a, b = exp of the mean token log-prob of y under the matching and under another instruction (arXiv:2302.05206).

    batch.prompt carries the instruction that the completion satisfied, batch.prompts["other"] and ["other_valid"]
    [B,P'] another one; the stage `hindsight` writes both. Nats: token means for the likelihood and the entropy H of the
    policy, a mean over completions for the contrast. epsilon: label smoothing, over the vocabulary for tokens and over
    the two instructions for the contrast. The other instruction is scored in a pass of its own. With epsilon, contrast
    and entropy 0 it is `sft`. Raises ConfigError if the batch has no other instruction.
    """
    if "other" not in batch.prompts or "other_valid" not in batch.prompts:
        raise ConfigError(
            'hir needs batch.prompts["other"] and ["other_valid"]: the stage fn(hindsight, ...) fills them'
        )
    mask, there = mask_of(batch), counted(batch)
    seen = context.score(role, batch, smoothed_read)
    likelihood = Mean.of(-(1 - epsilon) * seen["logps"] - epsilon * seen["uniform"], mask)
    view = Batch(
        prompt=batch.prompts["other"],
        prompt_valid=batch.prompts["other_valid"],
        tokens=batch.tokens,
        valid=batch.valid,
        mask=batch.mask,
        completions=batch.completions,
    )
    (elsewhere,) = context.score(role, view).values()
    gap = sequence_logps(seen["logps"], mask, "length") - sequence_logps(elsewhere, mask, "length")
    right, wrong = -jax.nn.log_sigmoid(gap), -jax.nn.log_sigmoid(-gap)
    apart = Mean.of((1 - epsilon / 2) * right + epsilon / 2 * wrong, there)
    spread = Mean.of(seen["entropy"], mask)
    total = likelihood.value() + contrast * apart.value() - entropy * spread.value()
    metrics = {"likelihood": likelihood, "contrast": apart, "entropy": spread, "accuracy": Mean.of(gap > 0, there)}
    return Mean(total, jnp.ones_like(total)), metrics
