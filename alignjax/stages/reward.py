"""Stages that fill rewards."""

from __future__ import annotations

from alignjax.numerics import last_valid
from alignjax.types import Batch, Context, Key, Mean, Metrics

__all__ = ["reward"]


def reward(context: Context, batch: Batch, key: Key, *, role: str = "reward") -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: the role's reward head after the last token of each completion."""
    (numbers,) = context.score(f"{role}:reward", batch).values()
    assert batch.valid is not None
    score = last_valid(numbers, batch.valid)
    return batch.replace(reward=score), {"reward": Mean.of(score)}
