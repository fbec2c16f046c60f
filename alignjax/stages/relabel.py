"""Stages that write labels from what is known already: certain pairs, binary feedback, win rates, and back."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.ranges import Count, Number, Positive
from alignjax.stages.judge import bradley_terry, probability
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def prefer_first(context: Context, batch: Batch, key: Key) -> Batch:
    """Completion 0 beats every other with certainty; pairs of others are not labeled (pair_weight 0).

    For a human text followed by corrupted ones and samples. A sample that equals the human text word for word is no
    worse: such a pair is not labeled either.

    Args:
        context: Not used.
        batch: Completions [B,N,T].
        key: Not used.

    Returns:
        The batch with preference and pair_weight [B,N,N].
    """
    tokens = batch.need("tokens", of="prefer_first")
    rows, n = tokens.shape[:2]
    shown = jnp.where(batch.need("valid", of="prefer_first"), tokens, -1)
    differs = jnp.any(shown[:, :1] != shown[:, 1:], axis=-1).astype(jnp.float32)
    matrix = jnp.zeros((rows, n, n), jnp.float32)
    return batch.replace(
        preference=(matrix + 0.5).at[:, 0, 1:].set(1.0).at[:, 1:, 0].set(0.0),
        pair_weight=matrix.at[:, 0, 1:].set(differs).at[:, 1:, 0].set(differs),
    )


def verdict(context: Context, batch: Batch, key: Key) -> Batch:
    """Rounds preference [B,N,N] to what a judge thinks more likely: 1, 0, or 1/2 where it is undecided. Turns
    probabilities into the chosen and rejected sides that most papers write of.

    Args:
        context: Not used.
        batch: A preference [B,N,N].
        key: Not used.

    Returns:
        The batch.

    Raises:
        ConfigError: If the batch has no preference.
    """
    preference = batch.need("preference", of="verdict")
    return batch.replace(preference=(jnp.sign(preference - 0.5) + 1) / 2)


def _rewards(batch: Batch, stage: str, unknown: float) -> tuple[Array, Array]:
    """The reward [B,N], `unknown` where nothing is known of a completion, and completions["weight"], which says so."""
    reward = batch.need("reward", of=stage)
    weight = batch.completions.get("weight", jnp.ones_like(reward))
    return jnp.where(weight != 0, reward, unknown), weight


def thumbs(context: Context, batch: Batch, key: Key, *, threshold: Number = 0.5) -> tuple[Batch, Metrics]:
    """Replaces reward [B,N] by binary feedback, 1 where it is above `threshold`, 0 where it is below, and 1/2 where it
    is neither, as `verdict` does for pairs: what unpaired losses read.

    A completion of which nothing is known (completions["weight"] 0) has 1/2 too, and these losses leave it out.
    Metric: `thumbs_up`, the mean of what was given to the others.

    Args:
        context: Not used.
        batch: A reward [B,N], with completions["weight"] [B,N] or without.
        key: Not used.
        threshold: In units of the reward.

    Returns:
        The batch, and the metric.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward, weight = _rewards(batch, "thumbs", threshold)
    up = (jnp.sign(reward - threshold) + 1) / 2
    return batch.replace(reward=up), {"thumbs_up": Mean.of(up, weight)}


def worst_first(context: Context, batch: Batch, key: Key) -> Batch:
    """Orders the completions of a prompt by reward, the lowest first, those of which nothing is known last: for losses
    that know a bad completion by its place (`d2o`).

    Args:
        context: Not used.
        batch: Completions [B,N,T] with a reward [B,N].
        key: Not used.

    Returns:
        The batch, reordered.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward, _ = _rewards(batch, "worst_first", jnp.inf)
    return batch.pick(jnp.argsort(reward, axis=1))


def asked(batch: Batch) -> Array:
    """Returns how much is known of each pair of different completions [B,N,N], symmetric: its `pair_weight`, marked at
    (i, j), (j, i) or both, and 1 without any."""
    preference = batch.need("preference", of="asked")
    weight = jnp.ones_like(preference)
    if batch.pair_weight is not None:
        weight = jnp.maximum(batch.pair_weight, batch.pair_weight.swapaxes(1, 2))
    return weight * _different(preference.shape[1])


def _different(n: int) -> Array:
    """True for a pair of different completions, [1,N,N]."""
    return ~jnp.eye(n, dtype=bool)[None]


def win_rate_against(context: Context, batch: Batch, key: Key, *, own: Count | None = None) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: the mean probability of beating the opponents among a prompt's completions, in [0, 1].

    A completion is no opponent of its own. Pairs count by their `pair_weight`, marked at (i, j), (j, i) or both.

    Args:
        context: Not used.
        batch: Judged completions.
        key: Not used.
        own: The first `own` completions play the later ones, which are then dropped; None: every completion plays all
            others and stays (the reward of self-play, arXiv:2401.04056, and how judged pairs become lists).

    Returns:
        The batch with reward and completions["weight"] [B,N], which says how much of the pairs a completion's number
        rests on (1 each if all were labeled); 1/2 of weight 0 is what nothing is known of. Metric: `win_rate`.

    Raises:
        ConfigError: If there are no preferences, or no opponents.
    """
    # What stands in a pair of weight 0 may be NaN, so it is masked before it is multiplied.
    matrix = batch.need("preference", of="win_rate_against")
    n = matrix.shape[1]
    if n < 2 or (own is not None and not 0 < own < n):
        raise ConfigError(f"win_rate_against(own={own}) finds no opponents among {n} completions a prompt")
    weight = asked(batch)
    if own is not None:
        weight = weight.at[..., :own].set(0)
    total = jnp.sum(weight, axis=-1)
    wins = jnp.sum(jnp.where(weight != 0, matrix - 0.5, 0) * weight, axis=-1)
    rate = 0.5 + wins / jnp.where(total != 0, total, 1)
    share = total / (n - 1 if own is None else n - own)
    metrics = {"win_rate": Mean.of(rate[:, :own], share[:, :own])}
    filled = batch.replace(reward=rate, completions={**batch.completions, "weight": share})
    if own is None:
        return filled, metrics
    players = filled.pick(jnp.broadcast_to(jnp.arange(own), (matrix.shape[0], own)))
    known = share[:, :own]
    return players.replace(pair_weight=known[:, :, None] * known[:, None, :]), metrics


def prefer_by_rivals(context: Context, batch: Batch, key: Key, *, scale: Positive = 1.0) -> Batch:
    """Replaces preference [B,N,N] by S(scale (g_i - g_j)), g the mean win rates of i and j against the same other N - 2
    completions: the labels of DNO (arXiv:2404.03715).

    What was asked about i and j themselves does not enter, so that g_i - g_j has the expectation of its population.

    Args:
        context: Not used.
        batch: Judged completions.
        key: Not used.
        scale: Multiplies differences of win rates.

    Returns:
        The batch with preference and pair_weight [B,N,N]: the share of rivals that both of a pair were compared with
        (each by its `pair_weight`), 0 for a pair that was compared with no common one.

    Raises:
        ConfigError: If there are no preferences, or fewer than three completions.
    """
    # With W the weights of what was asked and A = W (P - 1/2), the sum over common rivals k of W_ik W_jk (P_ik - P_jk)
    # is A W' - W A'; a diagonal of zeros keeps i and j out of it.
    matrix, labeled = batch.need("preference", of="prefer_by_rivals"), asked(batch)
    n = matrix.shape[1]
    if n < 3:
        raise ConfigError(f"prefer_by_rivals: {n} completions a prompt have no third to rate them; sample 3 or more")
    wins = jnp.where(labeled != 0, matrix - 0.5, 0) * labeled
    gained = jnp.einsum("bik,bjk->bij", wins, labeled)
    common = jnp.einsum("bik,bjk->bij", labeled, labeled) * _different(n)
    gap = (gained - gained.swapaxes(1, 2)) / jnp.where(common != 0, common, 1)
    return batch.replace(preference=probability(scale * gap), pair_weight=common / (n - 2))


def prefer_by_reward(context: Context, batch: Batch, key: Key, *, scale: Positive = 1.0) -> Batch:
    """Replaces preference [B,N,N] by S(scale (r_i - r_j)), r the batch's rewards: Bradley-Terry labels of a score.

    Pairs count as they did, and those with a completion of whose reward nothing is known (completions["weight"] 0) do
    not.

    Args:
        context: Not used.
        batch: A reward [B,N], with completions["weight"] [B,N] or without.
        key: Not used.
        scale: Multiplies differences of rewards.

    Returns:
        The batch.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward, weight = _rewards(batch, "prefer_by_reward", 0)
    judged = batch.replace(preference=bradley_terry(reward, scale))
    if "weight" not in batch.completions:
        return judged
    known = (weight[:, :, None] != 0) & (weight[:, None, :] != 0)
    return judged.replace(pair_weight=known * (1.0 if batch.pair_weight is None else batch.pair_weight))
