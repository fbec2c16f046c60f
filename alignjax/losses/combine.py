"""A loss on a view, and a loss with a weight. A sum of losses is just several entries in an algorithm."""

from __future__ import annotations

from typing import Any

from alignjax.config import Fn, as_fn, check_known, fn
from alignjax.ranges import Number
from alignjax.types import Batch, Context, Loss, Mean, Metrics


def view_of(batch: Batch, view: str) -> Batch:
    """Returns batch.views[view].

    Args:
        batch: The batch.
        view: The name of one of its views.

    Returns:
        The view.

    Raises:
        ConfigError: If there is none of this name; the message names the nearest.
    """
    check_known(view, batch.views, f"the batch has no view {view!r}")
    return batch.views[view]


def on_view(context: Context, batch: Batch, *, view: str, loss: Any) -> tuple[Mean, Metrics]:
    """`loss` reads batch.views[view] instead of the batch: a second data stream, or the same completions under another
    prompt.

    Args:
        context: Given to the loss.
        batch: Has the view.
        view: The name of the view.
        loss: What reads it.

    Returns:
        What the loss returns.

    Raises:
        ConfigError: If the batch has no such view.
    """
    return loss(context, view_of(batch, view))


def on(view: str, loss: Loss | Fn) -> Fn:
    """Returns a loss that reads a view of the batch: `on("pretrain", fn(sft))`.

    Args:
        view: The name of the view.
        loss: A loss, or an `fn` of one.

    Returns:
        The loss, an `fn` of `on_view`.
    """
    return fn(on_view, view=view, loss=as_fn(loss))


def weighted(context: Context, batch: Batch, *, loss: Any, weight: Number) -> tuple[Mean, Metrics]:
    """A loss times a factor: weight * loss.

    To switch a loss off, leave it out: with a weight of 0 its whole pass is still computed.

    Args:
        context: Handed to the loss.
        batch: Handed to the loss.
        loss: An `fn` of any loss.
        weight: The factor.

    Returns:
        The scaled mean, and the metrics of the loss, which are not scaled.
    """
    mean, metrics = loss(context, batch)
    return mean.scale(weight), metrics
