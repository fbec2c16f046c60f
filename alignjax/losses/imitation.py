"""Imitation of completions as far as their reward deserves it: filtered, weighted, or under the instruction that they
turned out to satisfy. `batch.reward` [B,N] may be on any scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.declared import needs
from alignjax.losses.decorators.sequences import completion_weights, mask_of, scored, sequence_logps, weighted_rewards
from alignjax.losses.reads import log_softmax
from alignjax.numerics import token_logps
from alignjax.ranges import Decay, NonNegative, Number, Positive, Share
from alignjax.types import Array, Batch, Context, Mean, Metrics


@needs("reward")
def filtered_mle(
    context: Context,
    batch: Batch,
    *,
    threshold: Number | None = None,
    fraction: Share | None = None,
    role: str = "policy",
) -> tuple[Mean, Metrics]:
    """Filtered likelihood: mean of -log policy over the tokens of the completions with reward >= c (arXiv:2308.12050).

    It is `sft` on the best completions.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] with a reward [B,N].
        threshold: c, in units of the reward.
        fraction: c is the reward of the last of this share of the best completions of the whole batch, all devices
            together (rounded up; ties with it are kept).
        role: What is trained.

    Returns:
        The mean over tokens in nats; `kept`, the share of completions that was, and their `reward`.

    Raises:
        ConfigError: Unless exactly one of `threshold` and `fraction` is given, or if the batch has no reward.
    """
    # The cut is a comparison of rewards and not a choice of rows, so shapes stay fixed under jit: what is dropped
    # weighs 0. What does not count gets reward -inf, which no share of the best can include.
    if (threshold is None) == (fraction is None):
        raise ConfigError("filtered_mle takes either threshold (a reward) or fraction (of the batch), exactly one")
    reward, present = weighted_rewards(batch, "filtered_mle", -jnp.inf)
    cut: Any = threshold if fraction is None else _top(reward, present != 0, fraction)
    keep = present * (reward >= cut)
    logps = scored(context, batch, role)
    weight = mask_of(batch) * keep[..., None].astype(logps.dtype)
    return Mean.of(-logps, weight), {"kept": Mean.of(keep, present), "reward": Mean.of(reward, keep)}


def _top(reward: Array, present: Array, fraction: float) -> Array:
    """The reward of the last of the best `fraction` of the completions that are present."""
    number = jnp.sum(present)
    # fraction * number may come out a rounding above a whole number, which would keep one completion too many
    best = jnp.clip(jnp.ceil(fraction * number - 1e-4), 1, jnp.maximum(number, 1)).astype(jnp.int32)
    return jnp.sort(reward.reshape(-1), descending=True)[best - 1]


@needs("reward")
def reward_weighted_regression(
    context: Context, batch: Batch, *, beta: Positive = 1.0, role: str = "policy"
) -> tuple[Mean, Metrics]:
    """Reward-weighted regression: mean of -log policy over tokens, weighted with exp(r / beta) of their completion, r
    the reward (arXiv:2308.12050).

    The weights are normalized over the whole batch, all devices together, so a constant added to all rewards changes
    nothing.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] with a reward [B,N].
        beta: Temperature in units of reward; beta -> infinity is `sft`, beta -> 0 `sft` on the best completion alone.
        role: What is trained.

    Returns:
        The mean over tokens in nats; `effective`, the share of completions that the weights amount to (1 if all are
        equal), and the weighted mean `reward`.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward, present = weighted_rewards(batch, "reward_weighted_regression", -jnp.inf)
    best = jnp.max(reward)
    # Relative to the best, so that no exponent is above 0; the inner where keeps inf - inf out.
    weight = present * jnp.exp(jnp.where(present != 0, reward - best, 0) / beta)
    logps = scored(context, batch, role)
    effective = jnp.square(jnp.sum(weight)) / jnp.maximum(jnp.sum(jnp.square(weight)), 1e-30)
    metrics = {"effective": Mean(effective, jnp.sum(present != 0)), "reward": Mean.of(reward, weight)}
    return Mean.of(-logps, mask_of(batch) * weight[..., None].astype(logps.dtype)), metrics


def smoothed_read(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads of every token its log-prob, the mean log-prob over the vocabulary and the entropy, in nats.

    Args:
        outputs: The logits [..,V] of one role.
        token: [..].

    Returns:
        "logps", "uniform" and "entropy", [..] each.
    """
    (logits,) = outputs.values()
    logps = log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(logps) * logps, axis=-1)
    return {"logps": token_logps(logits, token), "uniform": jnp.mean(logps, axis=-1), "entropy": entropy}


@needs("prompts")
def hir(
    context: Context,
    batch: Batch,
    *,
    epsilon: Decay = 0.2,
    contrast: NonNegative = 1.0,
    entropy: NonNegative = 0.001,
    role: str = "policy",
) -> tuple[Mean, Metrics]:
    """Hindsight instruction relabeling: smoothed NLL(y; match) - contrast [(1-epsilon) log(a / (a + b)) + epsilon log(b
    / (a + b))] - entropy H, with a, b = exp of the mean token log-prob of y under the matching and under another
    instruction (arXiv:2302.05206).

    batch.prompt carries the instruction that the completion satisfied, batch.prompts["other"] and ["other_valid"]
    [B,P'] another one; the stage `hindsight` writes both. The other instruction is scored in a pass of its own. The
    contrast rests where log(a / b) = logit(1 - epsilon). With epsilon, contrast and entropy 0 it is `sft`. As in the
    authors' code, whose smoothing leaves the right instruction 1 - epsilon (and not 1 - epsilon / 2). Completions of
    which nothing is known (completions["weight"] 0) do not count, the others by their weight.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] and the two instructions.
        epsilon: Label smoothing, over the vocabulary for tokens and over the two instructions for the contrast.
        contrast: Weight of the contrast, a mean over completions.
        entropy: Weight of the policy's entropy H, a mean over tokens.
        role: What is trained.

    Returns:
        The sum of the three in nats; they are the metrics `likelihood`, `contrast` and `entropy`, beside `accuracy`.

    Raises:
        ConfigError: If the batch has no other instruction.
    """
    # The other instruction is a second batch with the same completions, so the contrast is exact log-probs of both;
    # each of the three terms is a mean over its own units, and only the means are added.
    other_valid, other = (batch.need("prompts", name, of="hir") for name in ("other_valid", "other"))
    mask, present = mask_of(batch), completion_weights(batch)
    weight = mask * present[..., None]
    completions = {"tokens": batch.tokens, "valid": batch.valid, "mask": batch.mask, "completions": batch.completions}
    view = Batch(prompt=other, prompt_valid=other_valid, **completions)
    seen = context.score(role, batch, smoothed_read)
    likelihood = Mean.of(-(1 - epsilon) * seen["logps"] - epsilon * seen["uniform"], weight)
    elsewhere = sequence_logps(scored(context, view, role), mask, "length")
    gap = sequence_logps(seen["logps"], mask, "length") - elsewhere
    right, wrong = -jax.nn.log_sigmoid(gap), -jax.nn.log_sigmoid(-gap)
    apart = Mean.of((1 - epsilon) * right + epsilon * wrong, present)
    spread = Mean.of(seen["entropy"], weight)
    total = likelihood.value() + contrast * apart.value() - entropy * spread.value()
    metrics = {"likelihood": likelihood, "contrast": apart, "entropy": spread, "accuracy": Mean.of(gap > 0, present)}
    return Mean(total, jnp.ones_like(total)), metrics
