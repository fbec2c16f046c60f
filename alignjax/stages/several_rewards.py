"""Stages that make one reward of several: pessimistic ensembles, rewards of which all are to be good, and aspects that
count where the whole is good."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import as_float32, last_valid
from alignjax.ranges import Fraction, NonNegative, Number, Positive
from alignjax.stages.advantage import counted_rewards
from alignjax.stages.reward_shaping import kept_reward
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def _scores(context: Context, batch: Batch, roles: tuple[str, ...], stage: str) -> Array:
    """The reward heads of several roles after the last token of each completion [K,B,N]."""
    if not roles:
        raise ConfigError(f"{stage}(roles=()) names no reward model; name one or more")
    valid = batch.need("valid", of=stage)
    scores = [last_valid(context.score(f"{role}:reward", batch)[f"{role}:reward"], valid) for role in roles]
    return as_float32(jnp.stack(scores))


def _filled(batch: Batch, reward: Array) -> Batch:
    """The batch with a reward of all completions, so that no completions["weight"] of other rewards stays."""
    completions = {name: leaf for name, leaf in batch.completions.items() if name != "weight"}
    return batch.replace(reward=reward, completions=completions)


def ensemble_reward(
    context: Context, batch: Batch, key: Key, *, roles: tuple[str, ...], pessimism: NonNegative = 1.0
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: mean - pessimism std of the rewards of an ensemble, a lower confidence bound.

    Where the members disagree, none has seen the like, and a policy that climbs one of them is held back (reward model
    ensembles, arXiv:2310.02743, which subtracts the variance; the standard deviation has the reward's unit).

    Args:
        context: Scores the reward head of every role.
        batch: Completions [B,N,T].
        key: Not used.
        roles: The members, reward models that were trained apart.
        pessimism: How many standard deviations are subtracted; 0 gives the mean.

    Returns:
        The batch. Metrics: `reward`, the mean of all members, and `disagreement`, the mean standard deviation.

    Raises:
        ConfigError: If there are no members.
    """
    scores = _scores(context, batch, roles, "ensemble_reward")
    mean, spread = jnp.mean(scores, axis=0), jnp.std(scores, axis=0)
    metrics = {"reward": Mean.of(mean), "disagreement": Mean.of(spread)}
    return _filled(batch, mean - pessimism * spread), metrics


def log_sigmoid_reward(
    context: Context, batch: Batch, key: Key, *, roles: tuple[str, ...] = ("reward",), quantile: Fraction = 0.85
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: sum_k log S(r_k - q_k), the log-probability that a completion is good in every respect, were
    they independent (LSC, arXiv:2402.00742).

    q_k is what counts as good for the prompt: a quantile of r_k over its own completions, so that they should be
    samples of the policy that is aligned, or prompts["good_K"] [B] where the batch has it, K the role (the reward of an
    answer of reference, say). The quantile over the batch's samples is our derivation; the paper's estimator was not
    seen. Far below q_k the reward is r_k - q_k, far above it 0: what is good already gains nothing.

    Args:
        context: Scores the reward head of every role.
        batch: Completions [B,N,T].
        key: Not used.
        roles: Bradley-Terry reward models, one for each respect.
        quantile: Which quantile of a prompt's completions is q_k.

    Returns:
        The batch. Metric: `good`, the mean probability of being good in every respect.

    Raises:
        ConfigError: If there are no reward models.
    """
    scores = _scores(context, batch, roles, "log_sigmoid_reward")
    among = jnp.quantile(scores, quantile, axis=-1)
    good = jnp.stack([batch.prompts.get(f"good_{role}", among[k]) for k, role in enumerate(roles)])
    total = jnp.sum(jax.nn.log_sigmoid(scores - good[..., None]), axis=0)
    return _filled(batch, total), {"good": Mean.of(jnp.exp(total))}


def hierarchical_reward(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    aspects: tuple[str, ...],
    threshold: Number = 0.6,
    weight: NonNegative = 5.0,
    mean: Number = 0.0,
    deviation: Positive = 1.0,
    squash: bool = True,
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: weight z + 1[z >= threshold] sum_k S(a_k), z = (r - mean) / deviation the holistic score and
    a_k aspects, which count only where the whole is good (ALaRM, arXiv:2403.06754).

    S keeps every aspect above 0, so that to pass the threshold is never a loss, however poor an aspect is. An aspect is
    a number of the whole completion here; those of the paper stand on the tokens that they are about. It takes aspects,
    chosen by hand, that seldom contradict the holistic order. Defaults are those of its question answering.

    Args:
        context: Not used.
        batch: Completions with a reward r [B,N], and what `keep_reward` filed under the names.
        key: Not used.
        aspects: The names.
        threshold: In standard deviations.
        weight: Of the holistic score.
        mean: Of the holistic score over samples of the first policy.
        deviation: Its standard deviation there.
        squash: Takes the sigmoid of aspects; otherwise they are added as they are.

    Returns:
        The batch; completions["weight"] is the smallest of the reward's and those of all aspects. Metrics: the holistic
        `reward`, each `aspect_NAME`, and `passed`, the share of completions whose aspects count.

    Raises:
        ConfigError: For no reward, or a name that nobody filed.
    """
    reward, counts = counted_rewards(batch, "hierarchical_reward")
    score = (reward - mean) / deviation
    passed = score >= threshold
    metrics = {"reward": Mean.of(reward, counts), "passed": Mean.of(passed * 1.0, counts)}
    total = weight * score
    for name in aspects:
        aspect, known = kept_reward(batch, name, "hierarchical_reward")
        total += jnp.where(passed, jax.nn.sigmoid(aspect) if squash else aspect, 0)
        metrics[f"aspect_{name}"] = Mean.of(aspect, known)
        counts = jnp.minimum(counts, known)
    known = {**batch.completions, "weight": counts}
    return batch.replace(reward=jnp.where(counts != 0, total, 0), completions=known), metrics
