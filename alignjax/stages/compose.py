"""Stages made of stages."""

from __future__ import annotations

from typing import Any

from alignjax.config import ConfigError, Fn, as_fn, fn, nearest
from alignjax.numerics import fold_name
from alignjax.types import Batch, Context, Key, Stage

__all__ = ["chain", "in_view"]


def chain(context: Context, batch: Batch, key: Key, *, stages: tuple[Fn, ...]) -> Batch:
    """Several stages as one, in order; each gets a key of its own name (a second of the same name, of its count)."""
    seen: dict[str, int] = {}
    for stage in stages:
        seen[stage.name] = seen.get(stage.name, 0) + 1
        batch = stage(context, batch, fold_name(key, f"{stage.name}_{seen[stage.name]}"))
    return batch


def on_view(context: Context, batch: Batch, key: Key, *, view: str, stage: Any) -> Batch:
    """Runs `stage` on batch.views[view] and puts the result back under that name."""
    if view not in batch.views:
        raise ConfigError(f"the batch has no view {view!r}.{nearest(view, batch.views)}")
    return batch.replace(views={**batch.views, view: stage(context, batch.views[view], key)})


def in_view(view: str, stage: Stage | Fn) -> Fn:
    """`in_view("explore", fn(generate, ...))`: a stage that works on a view of the batch."""
    return fn(on_view, view=view, stage=as_fn(stage))
