"""Masks that say how much a token counts: by whether an edit touched it, or by where the shorter side of a pair ends.

completions["edited"] [B,N,T] marks the tokens that an edit between two completions inserted, replaced or deleted, each
on its own side (`data.revisions` fills it).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from alignjax.losses.decorators.sequences import mask_of
from alignjax.types import Array, Batch


def edited_of(batch: Batch) -> Array:
    """Returns which tokens an edit touched, [B,N,T] bool, or raises a ConfigError if nobody marked them."""
    return batch.need("completions", "edited", of="a loss of edits") != 0


def span_mask(batch: Batch, *, edited: Any, rest: Any) -> Array:
    """Returns batch.mask with the tokens that an edit touched times `edited` and the others times `rest`, [B,N,T].

    Args:
        batch: Completions [B,N,T] with completions["edited"] [B,N,T].
        edited: The factor of edited tokens.
        rest: The factor of all others.

    Returns:
        The mask [B,N,T].
    """
    mask = mask_of(batch).astype(float)
    return mask * jnp.where(edited_of(batch), edited, rest).astype(mask.dtype)


def normalized(mask: Array) -> Array:
    """Returns every completion's weights [..,T] divided by their sum; all 0 where the sum is 0. Also right where the
    sum is below 1, which `normalize="length"` takes for an empty completion."""
    total = jnp.sum(mask, axis=-1, keepdims=True)
    return jnp.where(total > 0, mask / jnp.where(total > 0, total, 1), 0)


def tail_masks(first: Array, second: Array, alpha: Any) -> tuple[Array, Array]:
    """Scales the tokens of the longer side of a pair that lie beyond the length of the shorter one.

    Args:
        first: Mask of one side [B,K,T].
        second: Mask of the other [B,K,T].
        alpha: The factor of the tail; places and lengths are numbers of tokens that count.

    Returns:
        The two masks.
    """
    counts = [mask != 0 for mask in (first, second)]
    shorter = jnp.minimum(*(jnp.sum(on, axis=-1, keepdims=True) for on in counts))

    def cut(mask: Array, on: Array) -> Array:
        mask = mask.astype(float)
        return mask * jnp.where(jnp.cumsum(on, axis=-1) <= shorter, 1, alpha).astype(mask.dtype)

    return cut(first, counts[0]), cut(second, counts[1])
