"""Stages that turn a score of a whole completion into rewards of its tokens, and the rules of the state that they read:
running moments of the score, and a coefficient of the KL that follows a target."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from alignjax.config import check_known
from alignjax.ranges import Limit, Number, Positive, Share, Within
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

NO_SPREAD = 1e-6  # a standard deviation that counts as none, in units of the score
PENALTIES = ("k1", "k3")
SCALINGS = ("none", "scale", "norm")


def counted_tokens(batch: Batch, of: str) -> Array:
    """Returns which tokens the policy wrote and is rewarded for [B,N,T]: mask is not 0, and something is known of the
    completion (completions["weight"] is not 0)."""
    mask = batch.need("valid", of=of) if batch.mask is None else batch.mask
    return (mask != 0) & (batch.completions.get("weight", jnp.ones(mask.shape[:2])) != 0)[..., None]


def log_ratio(batch: Batch, of: str, policy: str, reference: str) -> Array:
    """Returns logps[policy] - logps[reference] [B,N,T] in nats, 0 on tokens that do not count."""
    mask = batch.need("valid", of=of) if batch.mask is None else batch.mask
    one, other = (batch.need("logps", name, of=of) for name in (policy, reference))
    return jnp.where(mask != 0, one - other, 0)


# --------------------------------------------------------------------------------------------------------- the score


def no_moments(key: Key) -> dict[str, Array]:
    """Returns the first state of `running_moments`, `roles.value(fn(stages.no_moments))`: no score was seen yet.

    Args:
        key: Not used.
    """
    return {name: jnp.zeros(()) for name in ("count", "mean", "squares")}


def _merged(state: Any, score: Array, known: Array) -> dict[str, Array]:
    """The count, the mean and the sum of squared distances from it of what was seen and of these scores (the merge of
    Chan, Golub and LeVeque), which loses no digits where the mean is far from 0."""
    count = jnp.sum(known)
    mean = jnp.sum(jnp.where(known, score, 0)) / jnp.maximum(count, 1)
    squares = jnp.sum(jnp.where(known, jnp.square(score - mean), 0))
    total = state["count"] + count
    share, gap = count / jnp.maximum(total, 1), mean - state["mean"]
    merged = {
        "count": total,
        "mean": state["mean"] + gap * share,
        "squares": state["squares"] + squares + jnp.square(gap) * state["count"] * share,
    }
    return {name: number.astype(state[name].dtype) for name, number in merged.items()}


def running_moments(state: Any, context: Context, batch: Batch, key: Key) -> Any:
    """Merges an iteration's scores into the running count, mean and sum of squares of all scores so far: what
    `normalize_reward` reads (arXiv:2307.04964).

    Args:
        state: {"count", "mean", "squares"}, see `no_moments`; the variance is squares / (count - 1).
        context: Not used.
        batch: completions["raw_reward"] [B,N], which `normalize_reward` filed.
        key: Not used.

    Returns:
        The new moments.
    """
    score = batch.need("completions", "raw_reward", of="running_moments")
    return _merged(state, score, jnp.any(counted_tokens(batch, "running_moments"), axis=-1))


def normalize_reward(
    context: Context, batch: Batch, key: Key, *, how: str = "norm", clip: Limit = math.inf, role: str = "moments"
) -> tuple[Batch, Metrics]:
    """Divides reward [B,N] by the running standard deviation of all scores, this batch's among them, and bounds it: the
    score pipeline of PPO-max (arXiv:2307.04964), update, then scale or norm, then clip.

    Args:
        context: Holds the moments.
        batch: Completions with a reward [B,N]; of one of weight 0 nothing is known, and it moves no moment.
        key: Not used.
        how: "scale" divides by the standard deviation (unbiased); "norm" takes the running mean off before; "none" only
            clips and reads no role.
        clip: The largest absolute value, after scaling.
        role: A role with the rule `running_moments`, which stores at the end of the iteration what is computed here.

    Returns:
        The batch with the new reward, and the old one as completions["raw_reward"]. Metrics: `raw_reward`, `clipped`
        (share of completions), and the running `mean` and `deviation`.

    Raises:
        ConfigError: If there is no reward, or `how` is unknown.
    """
    # Scores of a first batch are scaled by their own spread; where there is none yet they are divided by 1.
    check_known(how, SCALINGS, f"normalize_reward(how={how!r}); it is one of {', '.join(SCALINGS)}")
    score = batch.need("reward", of="normalize_reward")
    known = jnp.any(counted_tokens(batch, "normalize_reward"), axis=-1)
    metrics = {"raw_reward": Mean.of(score, known)}
    scaled = score
    if how != "none":
        moments = _merged(context.state[role], score, known)
        deviation = jnp.sqrt(moments["squares"] / jnp.maximum(moments["count"] - 1, 1))
        deviation = jnp.where(deviation > NO_SPREAD, deviation, 1)
        scaled = (score - (moments["mean"] if how == "norm" else 0)) / deviation
        metrics |= {"mean": Mean.of(moments["mean"]), "deviation": Mean.of(deviation)}
    bounded = jnp.clip(scaled, -clip, clip)
    metrics["clipped"] = Mean.of((bounded != scaled).astype(jnp.float32), known)
    return batch.replace(reward=bounded, completions={**batch.completions, "raw_reward": score}), metrics


# ------------------------------------------------------------------------------------------------- the KL coefficient


def kl_coefficient(key: Key, *, initial: Positive) -> dict[str, Array]:
    """Returns the first state of `adaptive_kl`, `roles.value(fn(stages.kl_coefficient, initial=0.05))`.

    Args:
        key: Not used.
        initial: The coefficient, in units of reward per nat.
    """
    return {"coefficient": jnp.asarray(initial, jnp.float32)}


def adaptive_kl(
    state: Any,
    context: Context,
    batch: Batch,
    key: Key,
    *,
    target: Positive,
    rate: Share = 0.1,
    clip: Within = 0.2,
    policy: str = "policy",
    reference: str = "reference",
) -> Any:
    """Moves the coefficient of the KL so that the KL comes to a target: coefficient <- coefficient (1 + rate e) with
    e = clip(KL / target - 1, -clip, clip) (arXiv:1909.08593 section 2.2).

    Args:
        state: {"coefficient"}, see `kl_coefficient`; `token_rewards(coefficient=..)` reads it.
        context: Not used.
        batch: Samples with the log-probs of both.
        key: Not used.
        target: The KL of completions in nats, summed over their tokens.
        rate: The step at a relative error of 1.
        clip: The largest relative error.
        policy: The name in batch.logps of who sampled.
        reference: The name in batch.logps of what the KL is to.

    Returns:
        The new coefficient. It rests where the KL is the target.
    """
    total = jnp.sum(log_ratio(batch, "adaptive_kl", policy, reference), axis=-1)
    mask = batch.need("valid", of="adaptive_kl") if batch.mask is None else batch.mask
    kl = Mean.of(total, jnp.any(mask != 0, axis=-1)).value()
    error = jnp.clip(kl / target - 1, -clip, clip)
    return {"coefficient": (state["coefficient"] * (1 + rate * error)).astype(state["coefficient"].dtype)}


# --------------------------------------------------------------------------------------------------- rewards of tokens


def token_rewards(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    eta: Number = 0.05,
    penalty: str = "k1",
    limit: Limit = math.inf,
    coefficient: str | None = None,
    policy: str = "policy",
    reference: str = "reference",
) -> tuple[Batch, Metrics]:
    """Fills completions["token_reward"] [B,N,T]: -eta k_t on every token that the policy wrote, and reward [B,N] on the
    last of them besides (arXiv:2307.04964, arXiv:2203.02155).

    k1, log pi - log pi_ref, is the KL in the reward: the gradient of the expected sum is that of E[reward] - eta
    KL(pi || pi_ref). k3, exp(-k1) - 1 + k1, has the same expectation, is never negative, and has *another* gradient as
    a reward: that of KL(pi || pi_ref) - KL(pi_ref || pi) for a completion of one token, whose two parts cancel where
    the policy is near the reference.

    Args:
        context: Holds the role of the coefficient.
        batch: Samples [B,N,T] with a reward [B,N] and the log-probs of both when they were sampled.
        key: Not used.
        eta: Strength of the KL in units of reward per nat; below 0 it is added (a cost that is to be minimized).
        penalty: "k1" or "k3".
        limit: The largest absolute value of a token's reward, the score in it.
        coefficient: A role with the rule `adaptive_kl`, whose coefficient multiplies eta.
        policy: The name in batch.logps of who sampled.
        reference: The name in batch.logps of what the KL is to.

    Returns:
        The batch. Metrics: `kl` (nats a completion, k1), `coefficient`, and `total`, the sum of a completion's rewards.

    Raises:
        ConfigError: If a reward or log-probs are missing, or `penalty` is unknown.
    """
    # A completion of which nothing is known (completions["weight"] 0) gets no rewards at all.
    check_known(penalty, PENALTIES, f"token_rewards(penalty={penalty!r}); it is one of {', '.join(PENALTIES)}")
    counts = counted_tokens(batch, "token_rewards")
    ratio = log_ratio(batch, "token_rewards", policy, reference)
    strength = eta if coefficient is None else eta * context.state[coefficient]["coefficient"]
    later = jnp.flip(jnp.cumsum(jnp.flip(counts, -1), axis=-1), -1)  # tokens that count from here on
    score = jnp.where(counts & (later == 1), batch.need("reward", of="token_rewards")[..., None], 0)
    excess = ratio if penalty == "k1" else jnp.expm1(-ratio) + ratio
    rewards = jnp.where(counts, jnp.clip(score - strength * excess, -limit, limit), 0)
    some = jnp.any(counts, axis=-1)
    metrics = {
        "kl": Mean.of(jnp.sum(jnp.where(counts, ratio, 0), axis=-1), some),
        "coefficient": Mean.of(jnp.asarray(strength, jnp.float32)),
        "total": Mean.of(jnp.sum(rewards, axis=-1), some),
    }
    return batch.replace(completions={**batch.completions, "token_reward": rewards}), metrics
