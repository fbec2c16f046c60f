"""The score-function gradient as a loss: what a policy learns from rewards of its own samples."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.declared import needs
from alignjax.losses.decorators.sequences import mask_of, reference_logps, scored, sequence_logps, weighted_rewards
from alignjax.numerics import masked_sum
from alignjax.ranges import Limit, NonNegative, Number
from alignjax.types import Array, Batch, Context, Mean, Metrics

NO_SPREAD = 1e-4  # a standard deviation that counts as none, in units of the reward


@needs("reward")
def reinforce(
    context: Context,
    batch: Batch,
    *,
    tau: NonNegative = 0.1,
    baseline: Number = 0.0,
    leave_one_out: bool = False,
    standardized: bool = False,
    kl: str = "sequence",
    behaviour: str | None = None,
    cap: Limit = math.inf,
    role: str = "policy",
    reference: str = "reference",
) -> tuple[Mean, Metrics]:
    """Policy gradient with a KL term: -(r - b) lp + tau sg[rho] lp, on samples of the policy (with r a win rate against
    the geometric mixture, Nash-MD-PG of arXiv:2312.00886 section 7).

    The value means nothing, its gradient does: minus that of E[r] - tau KL(policy to reference). Without `behaviour`
    only right for samples of `role` at temperature 1, untruncated, one update per sample.

    Args:
        context: Scores the role and the reference.
        batch: Samples [B,N,T] with a reward [B,N], which is constant.
        tau: Strength of the KL in units of reward per nat.
        baseline: b, a number that moves no expectation (1/2 for win rates).
        leave_one_out: Takes the mean reward of the prompt's other completions off besides (N >= 2), each by its weight.
        standardized: Takes that of all off instead and divides by their standard deviation, as GRPO (arXiv:2402.03300).
        kl: "sequence" is the exact score function: the whole log-ratio weighs every token. "token" is TRL's Nash-MD
            (of earlier releases, gone in 1.16): tau sum_t sg[rho_t] lp_t, which leaves out how a token changes the
            ratios that follow it and so is not the gradient of the sequence KL.
        behaviour: The log-probs in the batch of what was sampled ("sampler"): each completion then counts with its
            importance weight sg[exp(lp - behaviour)].
        cap: Largest importance weight (what it cuts off is bias).
        role: What is trained.
        reference: What the KL is to.

    Returns:
        The mean over completions; `reward`, `kl` and `logps` (nats), and with `behaviour` `importance`.

    Raises:
        ConfigError: For no reward or log-probs, another `kl`, both baselines of a prompt, or one of one completion.
    """
    # Everything but the log-probs that are differentiated is a constant: ratios, advantages and importance weights.
    reward, weight = weighted_rewards(batch, "reinforce", 0)
    logps, mask = scored(context, batch, role), mask_of(batch)
    difference = logps - reference_logps(context, batch, reference)
    ratio = jax.lax.stop_gradient(jnp.where(mask != 0, difference, 0))
    total, log_ratio = sequence_logps(logps, mask), sequence_logps(ratio, mask)
    advantage = _among_others(reward, weight, leave_one_out, standardized) - baseline
    if kl not in ("sequence", "token"):
        raise ConfigError(f"kl={kl!r}; it must be 'sequence' (exact) or 'token' (each token by its own ratio)")
    by_token = masked_sum(ratio * logps, mask.astype(logps.dtype))
    regularized = log_ratio * total if kl == "sequence" else by_token
    metrics = {"reward": Mean.of(reward, weight), "kl": Mean.of(log_ratio, weight), "logps": Mean.of(total, weight)}
    importance = jnp.ones_like(total)
    if behaviour is not None:
        importance = _importance(batch, logps, behaviour, cap)
        metrics["importance"] = Mean.of(importance, weight)
    return Mean.of(importance * (tau * regularized - advantage * total), weight), metrics


def _among_others(reward: Array, weight: Array, leave_one_out: bool, standardized: bool) -> Array:
    """Rewards, or what they are beside those of the prompt's other completions."""
    if leave_one_out and standardized:
        raise ConfigError("reinforce(leave_one_out=True, standardized=True): each takes another mean off; choose one")
    if leave_one_out:
        return _minus_others(reward, weight)
    return _standardized(reward, weight) if standardized else reward


def _standardized(reward: Array, weight: Array) -> Array:
    """Rewards minus the prompt's weighted mean, in units of its standard deviation: of the sample, n - 1 below."""
    if reward.shape[1] < 2:
        raise ConfigError("standardized needs at least two completions a prompt")
    count = jnp.sum(weight, axis=1, keepdims=True)
    mean = jnp.sum(reward * weight, axis=1, keepdims=True) / jnp.where(count > 0, count, 1)
    squares = jnp.sum(weight * jnp.square(reward - mean), axis=1, keepdims=True)
    deviation = jnp.sqrt(squares / jnp.where(count > 1, count - 1, 1))
    return jnp.where(count > 1, (reward - mean) / (deviation + NO_SPREAD), 0)


def _importance(batch: Batch, logps: Array, behaviour: str, cap: float) -> Array:
    """How much likelier each completion is to be drawn now than when it was [B,N], a constant."""
    drawn = batch.need("logps", behaviour, of=f"reinforce(behaviour={behaviour!r})")
    moved = jnp.where(mask_of(batch) != 0, logps - drawn, 0)
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(jnp.sum(moved, axis=-1)), cap))


def _minus_others(reward: Array, weight: Array) -> Array:
    """Rewards minus the weighted mean of the prompt's other completions."""
    if reward.shape[1] < 2:
        raise ConfigError("leave_one_out needs at least two completions a prompt")
    others = jnp.sum(weight, axis=1, keepdims=True) - weight
    rest = jnp.sum(reward * weight, axis=1, keepdims=True) - reward * weight
    return reward - jnp.where(others > 0, rest / jnp.where(others > 0, others, 1), reward)
