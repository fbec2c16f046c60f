"""Stages of rewards that differ from user to user."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import as_fn, fn
from alignjax.numerics import row_keys
from alignjax.ranges import Count
from alignjax.types import Batch, Context, Key, Mean, Metrics
from alignjax.user_scores import pal_scores


def user_reward(context: Context, batch: Batch, key: Key, *, scores: Any = fn(pal_scores)) -> tuple[Batch, Metrics]:
    """Fills reward [B,N] with the score that the user of each row gives a completion (arXiv:2406.08469).

    Args:
        context: Holds what `scores` reads.
        batch: Completions [B,N,T] with prompts["user"] [B].
        key: Not used.
        scores: (context, batch) -> (scores [B,N], known [B]), such as fn(user_scores.pal_scores, similarity="angle").

    Returns:
        The batch; completions["weight"] is 0 where the user is not known. Metrics: `reward`, and `known`, the share of
        rows whose user is known.
    """
    reward, known = as_fn(scores)(context, batch)
    weight = jnp.broadcast_to(known[:, None], reward.shape).astype(reward.dtype)
    metrics = {"reward": Mean.of(reward, weight), "known": Mean.of(known.astype(reward.dtype))}
    return batch.replace(reward=reward, completions={**batch.completions, "weight": weight}), metrics


def latent_noise(context: Context, batch: Batch, key: Key, *, latent: Count = 2) -> Batch:
    """Fills prompts["noise"] [B,L] with standard normal numbers, by which `losses.vpl` samples its users
    (arXiv:2408.10075).

    Args:
        context: Not used.
        batch: Any.
        key: What is drawn from; a row's numbers are a function of its example.
        latent: L, the dimensions of a user.

    Returns:
        The batch.
    """
    keys = row_keys(key, batch.ids(), 1)[:, 0]
    noise = jax.vmap(lambda one: jax.random.normal(one, (latent,)))(keys)
    return batch.replace(prompts={**batch.prompts, "noise": noise})
