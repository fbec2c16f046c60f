"""Where a role's first value comes from, and the rules that move roles without an optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.types import Batch, Context, Key, frozen

__all__ = ["CopyOf", "Fresh", "Restored", "Value", "copy_of", "ema", "fresh", "frozen", "restored", "snapshot", "value"]


@dataclasses.dataclass(frozen=True)
class Fresh:
    """Random initialisation by the role's model, from the run's seed and the role's name."""


@dataclasses.dataclass(frozen=True)
class CopyOf:
    """Starts equal to another role, in buffers of its own."""

    role: str


@dataclasses.dataclass(frozen=True)
class Restored:
    """Starts from the newest checkpoint of an earlier pipeline step, or of another run's folder given as a path.

    grow: what the role's model has and the checkpoint has not, a new head say, is initialised afresh; otherwise the two
    must agree.
    """

    stage: str
    role: str
    grow: bool = False


@dataclasses.dataclass(frozen=True)
class Value:
    """Starts from function(key): any pytree of arrays, for state roles."""

    function: Callable[[Key], Any]


fresh, copy_of, restored, value = Fresh, CopyOf, Restored, Value


def _source(context: Context, own: Any, of: str) -> Any:
    """The other role's own tree if it has the same structure, else what its model runs on (a LoRA role is followed as
    merged weights)."""
    state = context.state[of]
    return state if jax.tree.structure(state) == jax.tree.structure(own) else context.params(of)


def ema(own: Any, context: Context, batch: Batch, key: Key, *, of: str, decay: float) -> Any:
    """Exponential moving average of another role's parameters: own <- decay * own + (1 - decay) * of. Nash-EMA's
    opponent (arXiv:2312.00886)."""
    return jax.tree.map(
        lambda mine, theirs: (decay * mine + (1 - decay) * theirs).astype(mine.dtype), own, _source(context, own, of)
    )


def snapshot(own: Any, context: Context, batch: Batch, key: Key, *, of: str, every: int) -> Any:
    """A copy of another role, renewed after every `every` iterations. Rules read old values all at once, so a chain of
    snapshots is a history."""
    renew = (context.step + 1) % every == 0
    return jax.tree.map(
        lambda mine, theirs: jnp.where(renew, theirs, mine).astype(mine.dtype), own, _source(context, own, of)
    )
