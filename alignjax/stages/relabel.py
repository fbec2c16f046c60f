"""Stages that write labels from what is known already."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.stages.given import preference_of, reward_of
from alignjax.types import Batch, Context, Key, Mean, Metrics

__all__ = ["prefer_first", "thumbs", "verdict", "worst_first"]


def prefer_first(context: Context, batch: Batch, key: Key) -> Batch:
    """Completion 0 beats every other with certainty; pairs of others are not labelled (pair_weight 0).

    For a human text followed by spoilt ones and samples. A sample that equals the human text word for word is no worse:
    such a pair is not labelled either.
    """
    assert batch.tokens is not None
    assert batch.valid is not None
    others = batch.tokens.shape[1] - 1
    shown = jnp.where(batch.valid, batch.tokens, -1)
    differs = jnp.any(shown[:, :1] != shown[:, 1:], axis=-1).astype(jnp.float32)
    matrix = jnp.zeros((batch.tokens.shape[0], others + 1, others + 1), jnp.float32)
    return batch.replace(
        preference=(matrix + 0.5).at[:, 0, 1:].set(1.0).at[:, 1:, 0].set(0.0),
        pair_weight=matrix.at[:, 0, 1:].set(differs).at[:, 1:, 0].set(differs),
    )


def verdict(context: Context, batch: Batch, key: Key) -> Batch:
    """Rounds preference [B,N,N] to what a judge thinks more likely: 1, 0, or 1/2 where it is undecided. Turns
    probabilities into the chosen and rejected sides that most papers write of.

    Raises ConfigError if the batch has no preference.
    """
    preference = preference_of(batch, "verdict")
    return batch.replace(preference=(jnp.sign(preference - 0.5) + 1) / 2)


def thumbs(context: Context, batch: Batch, key: Key, *, threshold: float = 0.5) -> tuple[Batch, Metrics]:
    """Replaces reward [B,N] by 1 (thumb up) where it is above `threshold` and 0 (thumb down) elsewhere: what unpaired
    losses read. Metric `thumbs_up`: the share of ups.

    Raises ConfigError if the batch has no reward.
    """
    reward = reward_of(batch, "thumbs")
    up = (reward > threshold).astype(reward.dtype)
    return batch.replace(reward=up), {"thumbs_up": Mean.of(up)}


def worst_first(context: Context, batch: Batch, key: Key) -> Batch:
    """Orders the completions of a prompt by reward, the lowest first: for losses that know a bad completion by its
    place (`d2o`). Raises ConfigError if the batch has no reward."""
    return batch.pick(jnp.argsort(reward_of(batch, "worst_first"), axis=1))
