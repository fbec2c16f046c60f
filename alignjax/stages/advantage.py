"""Stages that make advantages of rewards, each completion against the others of its prompt or of the batch.

A completion counts by completions["weight"] where a stage filled it (`reward_shaping.py` has stages that leave some
out); one that is all padding counts nothing. Expected gradients over fresh samples, where the loss is a mean over N
completions a prompt of log-probs times advantages, p = E[r] for rewards of 0 and 1 (tests/stages/test_advantage.py
measures them by enumeration):

    baseline         scale    gradient
    "none"           "none"   grad E[r]
    "leave_one_out"  "none"   grad E[r], of less variance
    "mean"           "none"   (1 - 1/N) grad E[r]
    "mean"           "group"  another direction: prompts count by about 1 / sqrt(p (1 - p))
    "none"           "mean"   grad of sum_{k=1..N} pass@k / k, which tends to log p (MaxRL)
    "mean"           "mean"   the same of k up to N - 1
    `pass_at_k`               grad E[max of k]

With a judge the reward is the win rate within the group, whose mean is 1/2 whatever was sampled: baseline "mean" then
has the exact gradient of self-play, and "leave_one_out" N / (N - 1) times that.
"""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import as_float32
from alignjax.ranges import Count, Limit, NonNegative, Number, Positive
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

NO_SPREAD = 1e-4  # added to a standard deviation that divides, in units of the reward, as TRL does
TIED = 1e-6  # how far apart rewards are that count as one number, of their size
Baseline = Literal["mean", "leave_one_out", "none"]
Scale = Literal["group", "batch", "mean", "none"]


def group_advantage(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    baseline: Baseline = "mean",
    scale: Scale = "group",
    spread: Positive = NO_SPREAD,
    clip: Limit = math.inf,
) -> tuple[Batch, Metrics]:
    """Fills advantage [B,N,T]: the reward of a completion less that of the others of its prompt, divided by a scale, on
    each of its tokens (GRPO, arXiv:2402.03300 eq. 3; RLOO, arXiv:2402.14740; MaxRL, arXiv:2602.02710).

    Args:
        context: Not used.
        batch: Completions with a reward [B,N].
        key: Not used.
        baseline: "mean" of the prompt's completions, "leave_one_out": of the others, "none".
        scale: What divides: the standard deviation (n - 1 below) of the prompt's rewards, "group", or of the batch's,
            "batch"; the prompt's mean reward, "mean", for rewards that are not negative; "none". TRL calls it
            `scale_rewards`.
        spread: Added to the standard deviation.
        clip: The largest absolute advantage (RefAlign, arXiv:2504.09895); a bias if it is reached.

    Returns:
        The batch. Metrics: `reward`, `spread` (mean standard deviation within a prompt) and `tied`, the share of
        prompts whose rewards are all one.

    Raises:
        ConfigError: If the batch has no reward, or leave_one_out has one completion a prompt.
    """
    reward, weight = counted_rewards(batch, "group_advantage")
    if baseline == "leave_one_out" and reward.shape[1] < 2:
        raise ConfigError("group_advantage(baseline='leave_one_out') needs at least two completions a prompt")
    mean, deviation = _moments(reward, weight, axis=1)
    advantage = reward - {"mean": mean, "leave_one_out": _others(reward, weight), "none": 0}[baseline]
    if scale == "mean":
        advantage = jnp.where(mean > 0, advantage / jnp.where(mean > 0, mean, 1), 0)
    elif scale != "none":
        divisor = deviation if scale == "group" else _moments(reward, weight, axis=None)[1]
        advantage = advantage / (divisor + spread)
    metrics = {
        "reward": Mean.of(reward, weight),
        "spread": Mean.of(deviation[:, 0], any_counts(weight)),
        "tied": Mean.of(tied(reward, weight) * 1.0, any_counts(weight)),
    }
    return with_advantage(batch, jnp.clip(jnp.where(weight != 0, advantage, 0), -clip, clip)), metrics


def pass_at_k(context: Context, batch: Batch, key: Key, *, k: Count) -> tuple[Batch, Metrics]:
    """Fills advantage [B,N,T] with the gradient of E[max of k rewards], pass@k where rewards are 0 and 1, unbiased from
    N >= k completions a prompt (arXiv:2505.15201; k = 1 is `group_advantage` without a baseline).

    A completion's number is k times the mean, over all sets of k that it is in, of what the set's largest reward would
    lose without it. So completions that none needs, and all of a prompt where the best are tied k times, have 0.

    Args:
        context: Not used.
        batch: Completions with a reward [B,N]; those of weight 0 are in no set.
        key: Not used.
        k: The number of tries, at most N.

    Returns:
        The batch. Metric: `pass_at_k`, the unbiased estimate of E[max of k], of prompts with k completions that count.

    Raises:
        ConfigError: If the batch has no reward, or fewer than k completions a prompt.
    """
    # Sorted, completion j is the largest of the sets whose other members are among the j below it, and of these
    # choose(m, k - 2) have m for the next largest.
    reward, weight = counted_rewards(batch, "pass_at_k")
    if reward.shape[1] < k:
        raise ConfigError(f"pass_at_k(k={k}) needs at least {k} completions a prompt, and there are {reward.shape[1]}")
    order = jnp.argsort(jnp.where(weight != 0, reward, -jnp.inf), axis=1)
    ranked, counts = (jnp.take_along_axis(x, order, axis=1) for x in (reward, weight != 0))
    rank = jnp.where(counts, jnp.cumsum(counts, axis=1) - 1, -1).astype(reward.dtype)
    number = jnp.sum(counts, axis=1, keepdims=True).astype(reward.dtype)
    sets = _choose(number - 1, k - 1)
    gained = ranked
    if k > 1:
        next_best = jnp.where(counts[:, None, :] & (rank[:, None, :] < rank[:, :, None]), 1, 0)
        gaps = (ranked[:, :, None] - ranked[:, None, :]) * next_best * _choose(rank, k - 2)[:, None, :]
        gained = jnp.sum(gaps, axis=2)
    enough = number >= k
    advantage = jnp.where(counts & enough, k * gained / jnp.where(enough, sets, 1), 0)
    largest = jnp.sum(jnp.where(counts, ranked * _choose(rank, k - 1), 0), axis=1, keepdims=True)
    estimate = largest / jnp.where(enough, _choose(number, k), 1)
    advantage = jnp.take_along_axis(advantage, jnp.argsort(order, axis=1), axis=1)
    return with_advantage(batch, advantage), {"pass_at_k": Mean.of(estimate, enough)}


def _choose(n: Array, k: int) -> Array:
    """Binomial coefficients of whole numbers n, 0 where k > n or n < 0."""
    product = jnp.where(n >= k, 1.0, 0.0).astype(n.dtype)
    for i in range(k):
        product = product * (n - i) / (i + 1)
    return jnp.where(n >= k, product, 0)


def batch_advantage(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    beta: NonNegative = 0.01,
    baseline: Literal["mean", "none"] = "none",
    behaviour: str = "sampler",
    reference: str = "reference",
    spread: Positive = NO_SPREAD,
) -> tuple[Batch, Metrics]:
    """Fills advantage [B,N,T]: the reward less beta times the KL still to come, sum_{s >= t} log p_old - log q,
    whitened over all tokens of the batch that count (REINFORCE++, arXiv:2501.03262 section 3; its variant with a
    baseline first takes the prompt's mean reward off).

    Whitening takes off a mean over tokens, in which long completions count more, and divides by a number of the batch.

    Args:
        context: Not used.
        batch: Completions with a reward [B,N] and the log-probs of both names [B,N,T].
        key: Not used.
        beta: Strength of the KL, in units of the reward per nat.
        baseline: "mean" of the prompt's completions, or "none".
        behaviour: The log-probs of what was sampled.
        reference: The log-probs that the KL is to.
        spread: Added to the standard deviation.

    Returns:
        The batch. Metrics: `reward` and `kl` (nats per completion).

    Raises:
        ConfigError: If the batch has no reward, or no log-probs of a name.
    """
    reward, weight = counted_rewards(batch, "batch_advantage")
    mask = _mask(batch)
    old, other = (batch.need("logps", name, of="batch_advantage") for name in (behaviour, reference))
    apart = jnp.where(mask != 0, old - other, 0) * mask
    to_come = jnp.flip(jnp.cumsum(jnp.flip(apart, -1), axis=-1), -1)
    mean = _moments(reward, weight, axis=1)[0] if baseline == "mean" else 0
    returns = (reward - mean)[..., None] - beta * to_come
    share = mask * weight[..., None]
    mean, deviation = _moments(returns, share, axis=None)
    metrics = {"reward": Mean.of(reward, weight), "kl": Mean.of(jnp.sum(apart, axis=-1), weight)}
    return batch.replace(advantage=jnp.where(share != 0, (returns - mean) / (deviation + spread), 0)), metrics


def decoupled_advantage(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    names: tuple[str, ...],
    weights: tuple[Number, ...] | None = None,
    spread: Positive = NO_SPREAD,
) -> tuple[Batch, Metrics]:
    """Fills advantage [B,N,T]: each of several rewards less its prompt's mean and divided by its standard deviation
    there, their weighted sum, whitened over the batch (GDPO, arXiv:2601.05242; TRL's "normalize_then_sum").

    So no reward counts more for having a larger spread. A completion of which one reward is not known has 0 for it.

    Args:
        context: Not used.
        batch: Completions with what `keep_reward` filed under these names.
        key: Not used.
        names: The rewards.
        weights: One number for each; None: 1.
        spread: Added to standard deviations.

    Returns:
        The batch with completions["weight"] 0 where no reward is known. Metrics: `reward_NAME`, `tied_NAME` (share of
        prompts whose rewards are all one).

    Raises:
        ConfigError: For another number of weights, or a name that nobody filed.
    """
    if not names or (weights is not None and len(weights) != len(names)):
        raise ConfigError(
            f"decoupled_advantage: {len(weights or ())} weights for {len(names)} rewards; give one for each"
        )
    total, known, metrics = jnp.zeros(()), jnp.zeros(()), {}
    present = jnp.any(_mask(batch) != 0, axis=-1) * batch.completions.get("weight", 1)
    for name, factor in zip(names, weights or (1.0,) * len(names), strict=True):
        weight = batch.need("completions", f"weight:{name}", of="decoupled_advantage") * present
        reward = jnp.where(weight != 0, batch.need("completions", f"reward:{name}", of="decoupled_advantage"), 0)
        mean, deviation = _moments(reward, weight, axis=1)
        total = total + factor * jnp.where(weight != 0, (reward - mean) / (deviation + spread), 0)
        known = jnp.maximum(known, weight)
        metrics[f"reward_{name}"] = Mean.of(reward, weight)
        metrics[f"tied_{name}"] = Mean.of(tied(reward, weight) * 1.0, any_counts(weight))
    mean, deviation = _moments(total, known, axis=None)
    filled = with_advantage(batch, jnp.where(known != 0, (total - mean) / (deviation + spread), 0))
    return filled.replace(completions={**batch.completions, "weight": known}), metrics


def counted_rewards(batch: Batch, stage: str) -> tuple[Array, Array]:
    """Returns the reward [B,N], 0 where nothing is known of a completion, and how much each counts [B,N]:
    completions["weight"] where a stage filled it, 0 for one that is all padding.

    Args:
        batch: Completions with a reward [B,N].
        stage: Who asks, for the message.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward = as_float32(batch.need("reward", of=stage))
    weight = jnp.any(_mask(batch) != 0, axis=-1) * batch.completions.get("weight", jnp.ones_like(reward))
    return jnp.where(weight != 0, reward, 0), weight


def with_advantage(batch: Batch, advantage: Array) -> Batch:
    """Returns the batch with the advantage of every completion [B,N] on each of its tokens [B,N,T].

    Args:
        batch: Completions [B,N,T].
        advantage: [B,N].
    """
    return batch.replace(advantage=jnp.broadcast_to(advantage[..., None], _mask(batch).shape))


def tied(reward: Array, weight: Array) -> Array:
    """Tells for every prompt whether all rewards that count are one number, bool [B].

    Args:
        reward: [B,N].
        weight: [B,N], 0 for what does not count.
    """
    highest = jnp.max(jnp.where(weight != 0, reward, -jnp.inf), axis=1)
    lowest = jnp.min(jnp.where(weight != 0, reward, jnp.inf), axis=1)
    return ~(highest - lowest > TIED * jnp.maximum(jnp.abs(highest), jnp.abs(lowest)))


def any_counts(weight: Array) -> Array:
    """Tells for every prompt whether one of its completions counts, bool [B].

    Args:
        weight: [B,N].
    """
    return jnp.any(weight != 0, axis=1)


def _mask(batch: Batch) -> Array:
    return batch.need("valid", of="an advantage") if batch.mask is None else batch.mask


def _moments(values: Array, weight: Array, axis: int | None) -> tuple[Array, Array]:
    """The weighted mean and standard deviation over an axis, which stays; of the sample, the sum of weights less 1
    below."""
    count = jnp.sum(weight, axis=axis, keepdims=True)
    mean = jnp.sum(values * weight, axis=axis, keepdims=True) / jnp.where(count > 0, count, 1)
    squares = jnp.sum(weight * jnp.square(values - mean), axis=axis, keepdims=True)
    return mean, jnp.sqrt(squares / jnp.where(count > 1, count - 1, 1))


def _others(reward: Array, weight: Array) -> Array:
    """The weighted mean reward of the prompt's other completions [B,N]; of one that has none its own."""
    others = jnp.sum(weight, axis=1, keepdims=True) - weight
    rest = jnp.sum(reward * weight, axis=1, keepdims=True) - reward * weight
    return jnp.where(others > 0, rest / jnp.where(others > 0, others, 1), reward)
