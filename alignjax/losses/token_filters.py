"""Which tokens a surrogate learns from, and a bonus for the entropy of the policy there.

A filter is a function (tokens, context, batch) -> factors [B,N,T] or [B,N,1], which are constants.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from alignjax.config import fn
from alignjax.losses.decorators.sequences import completion_weights, mask_of
from alignjax.losses.masks import normalized
from alignjax.losses.policy_ratios import Tokens
from alignjax.losses.reads import entropy
from alignjax.losses.reductions import token_mean
from alignjax.numerics import masked_sum
from alignjax.ranges import NonNegative, Number, Share
from alignjax.types import Array, Batch, Context, Mean, Metrics


def top_entropy(tokens: Tokens, context: Context, batch: Batch, *, share: Share = 0.2, role: str = "policy") -> Array:
    """Returns 1 on the tokens of the batch whose next-token distribution has the largest entropies, `share` of them,
    and 0 elsewhere (arXiv:2506.01939; TRL's `top_entropy_quantile`).

    Args:
        tokens: The tokens.
        context: Scores the role.
        batch: Its mask and completion weights say which tokens are counted.
        share: How many of the tokens stay.
        role: Whose entropy.
    """
    return _highest(_entropies(context, batch, role), batch, share).astype(tokens.mask.dtype)


def off_policy_mask(tokens: Tokens, context: Context, batch: Batch, *, threshold: Number = 0.01) -> Array:
    """Returns 0 on completions of a negative advantage whose mean log(p_old / p) per token is above `threshold`, 1
    elsewhere [B,N,T] (DeepSeek-V3.2, arXiv:2512.02556 section 3.1; TRL's `off_policy_mask_threshold`).

    Args:
        tokens: The tokens.
        context: Not used.
        batch: Not used.
        threshold: In nats per token.
    """
    apart = -masked_sum(tokens.moved, normalized(tokens.mask))[..., None]
    return ((tokens.advantage >= 0) | (apart <= threshold)).astype(tokens.mask.dtype)


def entropy_bonus(
    context: Context,
    batch: Batch,
    *,
    coefficient: Number = 0.01,
    share: Share | None = None,
    of_all: bool = False,
    reduction: Any = fn(token_mean),
    role: str = "policy",
) -> tuple[Mean, Metrics]:
    """Entropy bonus: -coefficient H, H the mean entropy of the next-token distributions where the completion's tokens
    stand (arXiv:1707.06347 eq. 9; TRL's `entropy_coef`).

    A loss of its own beside a surrogate: an algorithm sums its losses.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T].
        coefficient: Strength, per nat; a negative one lowers the entropy.
        share: The share of tokens, those of the highest entropy, that counts; beside `top_entropy` the same; None: all.
        of_all: Divides by the number of all tokens, as TRL's "dapo", "cispo" and "vespo" do; else by those that count.
        reduction: (values, mask, weight) -> Mean, as of `surrogate`.
        role: Whose entropy.

    Returns:
        The loss, and `entropy`, the mean over all tokens in nats.
    """
    values, mask, weight = _entropies(context, batch, role), mask_of(batch), completion_weights(batch)
    mean = Mean.of(values, mask * weight[..., None])
    kept = jnp.ones(values.shape, bool) if share is None else _highest(values, batch, share)  # a share sorts the batch
    loss = reduction(values * kept if of_all else values, mask if of_all else mask * kept, weight)
    return loss.scale(-coefficient), {"entropy": mean}


def entropy_target(
    context: Context, batch: Batch, *, target: NonNegative, weight: NonNegative = 0.01, role: str = "policy"
) -> tuple[Mean, Metrics]:
    """Entropy target: weight |H - target|, H the mean entropy of the tokens that count (a switch of PPO-max,
    arXiv:2307.04964).

    Args:
        context: Scores the role.
        batch: Completions [B,N,T].
        target: In nats per token.
        weight: Strength, per nat.
        role: Whose entropy.

    Returns:
        The loss, and `entropy` in nats.
    """
    counts = mask_of(batch) * completion_weights(batch)[..., None]
    mean = Mean.of(_entropies(context, batch, role), counts)
    present = (mean.weight > 0).astype(mean.total.dtype)
    return Mean(weight * jnp.abs(mean.value() - target) * present, present), {"entropy": mean}


def _entropies(context: Context, batch: Batch, role: str) -> Array:
    """Entropies [B,N,T] in nats, 0 where the mask is."""
    return jnp.where(mask_of(batch) != 0, context.score(role, batch, entropy)["entropy"], 0)


def _highest(values: Array, batch: Batch, share: Any) -> Array:
    """True on the tokens that count and whose number is at least the (1 - share)-quantile of the batch."""
    counts = mask_of(batch) * completion_weights(batch)[..., None] != 0
    lowest = jnp.nanquantile(jnp.where(counts, values, jnp.nan), 1 - share)
    return counts & (values >= lowest)
