"""The score-function gradient as a loss: what a policy learns from rewards of its own samples."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, nearest
from alignjax.losses.decorators.pairwise import mask_of, reference_logps, sequence_logps
from alignjax.losses.decorators.unpaired import rewards, weights
from alignjax.numerics import masked_sum
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["reinforce"]


def reinforce(
    context: Context,
    batch: Batch,
    *,
    tau: float = 0.1,
    baseline: float = 0.0,
    leave_one_out: bool = False,
    kl: str = "sequence",
    behaviour: str | None = None,
    cap: float = math.inf,
    role: str = "policy",
    reference: str = "reference",
) -> tuple[Mean, Metrics]:
    """Policy gradient with a KL term: -(r - b) lp + tau sg[rho] lp, on samples of the policy (with r a win rate against
    the geometric mixture, Nash-MD-PG of arXiv:2312.00886 section 7).

    batch.reward [B,N], constant; lp in nats, summed over the tokens that count. The value means nothing, its gradient
    does: minus that of E[r] - tau KL(policy to reference). tau: strength of the KL in units of reward per nat;
    baseline: b, a number that moves no expectation (1/2 for win rates); leave_one_out: b is the mean reward of the
    prompt's other completions besides (N >= 2). kl="sequence" is the exact score function: the whole log-ratio weighs
    every token. kl="token" is TRL's Nash-MD: tau sum_t sg[rho_t] lp_t, which leaves out how a token changes the ratios
    that follow it and so is not the gradient of the sequence KL. behaviour: the log-probs in the batch of what was
    sampled ("sampler"): each completion then counts with its importance weight sg[exp(lp - behaviour)], at most `cap`
    (what it cuts off is bias). Without it only right for samples of `role` at temperature 1, untruncated, one update
    per sample.

    Raises ConfigError if the batch has no reward or no such log-probs, for another `kl`, or for leave_one_out with one
    completion.
    """
    there = weights(batch)
    reward = jnp.where(there != 0, rewards(batch, "reinforce"), 0)  # what was not sampled may hold anything
    (logps,) = context.score(role, batch).values()
    mask = mask_of(batch)
    difference = logps - reference_logps(context, batch, reference)
    ratio = jax.lax.stop_gradient(jnp.where(mask != 0, difference, 0))
    total, log_ratio = sequence_logps(logps, mask), sequence_logps(ratio, mask)
    advantage = (_left_out(reward, there) if leave_one_out else reward) - baseline
    if kl == "sequence":
        regularised = log_ratio * total
    elif kl == "token":
        regularised = masked_sum(ratio * logps, mask.astype(logps.dtype))
    else:
        raise ConfigError(f"kl={kl!r}; it must be 'sequence' (exact) or 'token' (each token by its own ratio)")
    metrics = {"reward": Mean.of(reward, there), "kl": Mean.of(log_ratio, there), "logps": Mean.of(total, there)}
    importance = jnp.ones_like(total)
    if behaviour is not None:
        importance = _importance(batch, logps, behaviour, cap)
        metrics["importance"] = Mean.of(importance, there)
    return Mean.of(importance * (tau * regularised - advantage * total), there), metrics


def _importance(batch: Batch, logps: Array, behaviour: str, cap: float) -> Array:
    """How much likelier each completion is to be drawn now than when it was [B,N], a constant."""
    if behaviour not in batch.logps:
        raise ConfigError(f"reinforce(behaviour={behaviour!r}): no such log-probs.{nearest(behaviour, batch.logps)}")
    sampled = mask_of(batch) != 0
    moved = jnp.where(sampled, logps - batch.logps[behaviour], 0)
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(jnp.sum(moved, axis=-1)), cap))


def _left_out(reward: Array, there: Array) -> Array:
    """Rewards minus the mean of the prompt's other completions."""
    if reward.shape[1] < 2:
        raise ConfigError("leave_one_out needs at least two completions a prompt")
    others = jnp.sum(there, axis=1, keepdims=True) - there
    rest = jnp.sum(reward, axis=1, keepdims=True) - reward
    return reward - jnp.where(others > 0, rest / jnp.where(others > 0, others, 1), reward)
