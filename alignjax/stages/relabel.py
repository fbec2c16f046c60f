"""Stages that write labels from what is known already."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.types import Batch, Context, Key

__all__ = ["prefer_first"]


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
