"""Where a role's first value comes from, and the rules that move roles without an optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, fn, nearest
from alignjax.types import Batch, Context, Key, Mean, frozen

__all__ = [
    "AdaptersOf",
    "CopyOf",
    "Fresh",
    "PoolOf",
    "Restored",
    "Through",
    "Value",
    "adapters_of",
    "chosen",
    "combined",
    "copy_of",
    "ema",
    "fresh",
    "frozen",
    "memory",
    "pool",
    "pool_of",
    "remember",
    "restored",
    "return_to",
    "running_mean",
    "snapshot",
    "through",
    "unwrapped",
    "value",
    "while_domain",
    "zero_means",
]


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


@dataclasses.dataclass(frozen=True)
class PoolOf:
    """Starts as a ring of `size` copies of another role's first value, for the rule `pool` and the build `chosen`: the
    own tree is {"ring": [size, ..] leaves, "pushed", "slot"}."""

    role: str
    size: int


@dataclasses.dataclass(frozen=True)
class AdaptersOf:
    """Starts as low-rank adapters for the weights of another role, which change nothing yet: function(key, its first
    value) -> adapters, a `models.lora.init` with its rank and targets."""

    role: str
    function: Fn


@dataclasses.dataclass(frozen=True)
class Through:
    """Starts as function(tree) of what another start gives: `through(restored("sft", "policy"), fn(models.quantize))`,
    weights in few bits. The model then runs on what the function makes."""

    start: Any
    function: Fn


fresh, copy_of, restored, value, pool_of = Fresh, CopyOf, Restored, Value, PoolOf
adapters_of, through = AdaptersOf, Through


def unwrapped(start: Any) -> Any:
    """The start below any `through`."""
    return unwrapped(start.start) if isinstance(start, Through) else start


def _source(context: Context, own: Any, of: str) -> Any:
    """The other role's own tree if it has the same structure (adapters follow adapters), else what its model runs
    on."""
    state = context.state.get(of)
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


def _zeros(key: Key, *, names: tuple[str, ...]) -> dict[str, Mean]:
    return {name: Mean(jnp.zeros(()), jnp.zeros(())) for name in names}


def zero_means(*names: str) -> Value:
    """A start for `running_mean`: nothing seen yet of the metrics of these names."""
    return Value(fn(_zeros, names=names))


def running_mean(own: Any, context: Context, batch: Batch, key: Key, *, of: str, decay: float) -> Any:
    """Running means of metrics that the loss `of` writes: (total, weight) <- decay * (total, weight, both with this
    iteration's added).

    own: {metric: Mean}, see `zero_means`. The mean is total / weight, so that early values are not pulled towards 0 and
    an iteration counts as much as it has examples. decay = 1 forgets nothing. Raises ConfigError if there is no such
    metric.
    """

    def moved(name: str, mine: Mean) -> Mean:
        metric = f"{of}/{name}"
        if metric not in context.metrics:
            raise ConfigError(f"running_mean finds no metric {metric!r}.{nearest(metric, context.metrics)}")
        new = context.metrics[metric]
        both = Mean(mine.total + new.total, mine.weight + new.weight)
        return jax.tree.map(lambda old, now: (decay * now).astype(old.dtype), mine, both)

    return {name: moved(name, mine) for name, mine in own.items()}


def pool(own: Any, context: Context, batch: Batch, key: Key, *, of: str, every: int = 1) -> Any:
    """A ring of a role's past parameters (`pool_of`): pushes the present ones after every `every` iterations over the
    oldest, and draws which of those pushed so far the next iteration plays against (a queue of opponents)."""
    ring, pushed = own["ring"], own["pushed"]
    size = jax.tree.leaves(ring)[0].shape[0]
    renew = (context.step + 1) % every == 0
    place = pushed % size
    present = _source(context, ring, of)

    def moved(mine: Any, theirs: Any) -> Any:
        return mine.at[place].set(jnp.where(renew, theirs, mine[place]).astype(mine.dtype))

    pushed = pushed + renew
    slot = jax.random.randint(key, (), 0, jnp.minimum(pushed, size)).astype(own["slot"].dtype)
    return {"ring": jax.tree.map(moved, ring, present), "pushed": pushed, "slot": slot}


def chosen(own: Any, params_of: Callable[[str], Any]) -> Any:
    """The build of a `pool_of` role: the parameters in the slot that was drawn."""
    return jax.tree.map(lambda leaf: leaf[own["slot"]], own["ring"])


def combined(own: Any, params_of: Callable[[str], Any], *, of: tuple[str, ...]) -> Any:
    """The build of a role without weights of its own: sum_k own["weights"][k] times the parameters of role of[k]."""
    trees = [params_of(name) for name in of]
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(own["weights"], leaves, strict=True)), *trees)


def return_to(own: Any, context: Context, batch: Batch, key: Key, *, of: str, every: int = 2) -> Any:
    """Goes back to another role's value after every iteration but each `every`-th: of a trained role, steps that only
    look ahead (extragradient). The optimizer's own state goes on."""
    stay = (context.step + 1) % every == 0
    return jax.tree.map(
        lambda mine, theirs: jnp.where(stay, mine, theirs).astype(mine.dtype), own, _source(context, own, of)
    )


def _empty(key: Key, *, slots: int, fields: tuple[tuple[str, tuple[int, ...], str], ...]) -> dict[str, Any]:
    empty = {name: jnp.zeros((slots, *shape), dtype) for name, shape, dtype in fields}
    return {"owner": jnp.full((slots,), -1, jnp.int32), "step": jnp.zeros((slots,), jnp.int32), **empty}


def memory(slots: int, **fields: tuple[tuple[int, ...], str]) -> Value:
    """A start for `remember`: room for `slots` examples. `memory(100, tokens=((2, 16), "int32"))` says the shape of a
    field without its leading axis, and its dtype. Fields are those of a Batch, or keys of its prompts, completions and
    ("logps/reference") log-probs. "owner" is the example in a slot (-1: none), "step" when it was made."""
    described = tuple((name, tuple(shape), dtype) for name, (shape, dtype) in fields.items())
    return Value(fn(_empty, slots=slots, fields=described))


def _field(batch: Batch, name: str) -> Any:
    if name.startswith("logps/"):
        found = batch.logps.get(name[6:])
    else:
        found = getattr(batch, name, None)
        for other in (batch.prompts, batch.completions):
            found = other.get(name) if found is None else found
    if found is None:
        raise ConfigError(f"remember finds no {name!r} in the batch")
    return found


def remember(own: Any, context: Context, batch: Batch, key: Key) -> Any:
    """Writes the iteration's examples into a `memory`, each to the slot of its example_id modulo the number of slots:
    a newer example takes an older one's place, and the same prompt always its own. Raises ConfigError if the batch
    lacks a field."""
    if batch.example_id is None:
        raise ConfigError("remember needs batch.example_id: it says which slot a prompt has")
    slots, rows = own["owner"].shape[0], jnp.arange(batch.example_id.shape[0])
    slot = batch.example_id % slots
    # Of rows that share a slot the last one writes: else the device decides which one wins, field by field.
    last = jnp.full((slots,), -1).at[slot].max(rows)
    slot = jnp.where(last[slot] == rows, slot, slots)
    written = {"owner": batch.example_id, "step": jnp.broadcast_to(context.step, slot.shape)}
    return {
        name: kept.at[slot].set(
            (written[name] if name in written else _field(batch, name)).astype(kept.dtype), mode="drop"
        )
        for name, kept in own.items()
    }


def while_domain(
    own: Any, context: Context, batch: Batch, key: Key, *, of: str, domain: int, field: str = "domain"
) -> Any:
    """Follows another role while most prompts of a batch are of one domain, batch.prompts[field] == domain, and stands
    still otherwise: what was learned last about that domain. Raises ConfigError if there is no such field."""
    if field not in batch.prompts:
        raise ConfigError(f"while_domain finds no batch.prompts[{field!r}].{nearest(field, batch.prompts)}")
    there = jnp.mean((batch.prompts[field] == domain).astype(jnp.float32)) > 0.5
    return jax.tree.map(
        lambda mine, theirs: jnp.where(there, theirs, mine).astype(mine.dtype), own, _source(context, own, of)
    )
