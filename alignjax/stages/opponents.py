"""Stages that turn judged pairs into numbers of single completions, and back."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.pair_layout import all_pairs, preference_matrix
from alignjax.stages.given import preference_of, reward_of
from alignjax.stages.judge import probability
from alignjax.types import Batch, Context, Key, Mean, Metrics

__all__ = ["prefer_by_reward", "win_rate_against"]


def win_rate_against(context: Context, batch: Batch, key: Key, *, own: int | None = None) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: the mean probability of beating the opponents among a prompt's completions, in [0, 1].

    own: the first `own` completions play the later ones, which are then dropped; None: every completion plays all
    others and stays (the reward of self-play, arXiv:2401.04056, and how judged pairs become lists). A completion is no
    opponent of its own. Pairs count by their `pair_weight`, marked at (i, j), (j, i) or both; completions["weight"]
    [B,N] says how much of them a completion's number rests on (1 each if all were labelled), and 1/2 of weight 0 is
    what nothing is known of. Raises ConfigError if there are no preferences, or no opponents.
    """
    matrix = preference_of(batch, "win_rate_against")
    n = matrix.shape[1]
    if n < 2 or (own is not None and not 0 < own < n):
        raise ConfigError(f"win_rate_against(own={own}) finds no opponents among {n} completions a prompt")
    plays = ~jnp.eye(n, dtype=bool) if own is None else jnp.arange(n)[None] >= own
    asked = jnp.ones_like(matrix)
    if batch.pair_weight is not None:
        asked = jnp.maximum(batch.pair_weight, batch.pair_weight.swapaxes(1, 2))
    weight = asked * plays.astype(asked.dtype)
    total = jnp.sum(weight, axis=-1)
    wins = jnp.sum(jnp.where(weight != 0, matrix - 0.5, 0) * weight, axis=-1)
    rate = 0.5 + wins / jnp.where(total != 0, total, 1)
    share = total / jnp.sum(plays, axis=-1)
    metrics = {"win_rate": Mean.of(rate[:, :own], share[:, :own])}
    filled = batch.replace(reward=rate, completions={**batch.completions, "weight": share})
    if own is None:
        return filled, metrics
    kept = filled.pick(jnp.broadcast_to(jnp.arange(own), (matrix.shape[0], own)))
    known = share[:, :own]
    return kept.replace(pair_weight=known[:, :, None] * known[:, None, :]), metrics


def prefer_by_reward(context: Context, batch: Batch, key: Key, *, scale: float = 1.0) -> Batch:
    """Replaces preference [B,N,N] by S(scale (r_i - r_j)), r the batch's rewards: Bradley-Terry labels of a score; of
    win rates, the labels of DNO (arXiv:2404.03715). Raises ConfigError if the batch has no reward."""
    reward = reward_of(batch, "prefer_by_reward")
    n = reward.shape[1]
    i, j = (jnp.array([pair[side] for pair in all_pairs(n)]) for side in (0, 1))
    label = probability(scale * (reward[:, i] - reward[:, j]))
    return batch.replace(preference=preference_matrix(label, all_pairs(n), n))
