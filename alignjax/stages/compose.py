"""Stages made of stages."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, as_fn, check_known, fn
from alignjax.numerics import fold_name
from alignjax.ranges import Natural
from alignjax.types import Batch, Context, Key, Metrics, Stage, prefixed, with_metrics


def chain(context: Context, batch: Batch, key: Key, *, stages: tuple[Fn, ...]) -> tuple[Batch, Metrics]:
    """Runs several stages as one, in order.

    Args:
        context: Given to every stage.
        batch: Given to the first.
        key: Each stage gets a key of its own name (a second of the same name, of its count).
        stages: What runs.

    Returns:
        The last one's batch, and all metrics, under the stages' names ("generate/length", of a second stage of the
        name "generate_2/length").
    """
    seen: Counter[str] = Counter()
    metrics: Metrics = {}
    for stage in stages:
        seen[stage.name] += 1
        numbered = f"{stage.name}_{seen[stage.name]}"
        batch, new = with_metrics(stage(context, batch, fold_name(key, numbered)))
        metrics |= prefixed(stage.name if seen[stage.name] == 1 else numbered, new)
    return batch, metrics


def on_view(context: Context, batch: Batch, key: Key, *, view: str, stage: Any) -> tuple[Batch, Metrics]:
    """Runs `stage` on batch.views[view], puts the result back under that name and passes its metrics on.

    Args:
        context: Given to the stage.
        batch: Has the view.
        key: Given to the stage.
        view: The name of the view.
        stage: What runs on it.

    Returns:
        The batch, and the stage's metrics.

    Raises:
        ConfigError: If the batch has no such view.
    """
    check_known(view, batch.views, f"the batch has no view {view!r}")
    changed, metrics = with_metrics(stage(context, batch.views[view], key))
    return batch.replace(views={**batch.views, view: changed}), metrics


def in_view(view: str, stage: Stage | Fn) -> Fn:
    """Returns a stage that works on a view of the batch: `in_view("explore", fn(generate, ...))`.

    Args:
        view: The name of the view.
        stage: A stage, or an `fn` of one.

    Returns:
        The stage, an `fn` of `on_view`.
    """
    return fn(on_view, view=view, stage=as_fn(stage))


def into_view(context: Context, batch: Batch, key: Key, *, view: str, completions: tuple[Natural, ...]) -> Batch:
    """Puts the prompts with only these completions into a view, for a loss on some of them.

    Args:
        context: Not used.
        batch: Completions [B,N,T].
        key: Not used.
        view: The name of the new view.
        completions: The numbers of the K completions.

    Returns:
        The batch; its view has completions [B,K,T].

    Raises:
        ConfigError: If one of the completions does not exist.
    """
    rows, n = batch.need("tokens", of="into_view").shape[:2]
    if any(not 0 <= number < n for number in completions):
        raise ConfigError(f"into_view(completions={completions}) of a batch with {n} completions a prompt")
    some = batch.replace(views={}).pick(jnp.broadcast_to(jnp.array(completions), (rows, len(completions))))
    return batch.replace(views={**batch.views, view: some})
