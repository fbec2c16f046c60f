"""Initial values of roles, and the rules that move roles without an optimizer.

A rule is called as rule(state, context, batch, key) at the end of every iteration and returns the role's next tree.
`state` is the present one, `context` has the roles and the metrics of the losses, `batch` is the experience, and `key`
is the rule's own. Rules read old values all at once: none sees what another has just written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alignjax.config import ConfigError, Fn, check_known, fn
from alignjax.ranges import Count, Fraction, Natural
from alignjax.types import Batch, Context, Key, Mean, Role, frozen as frozen

# ------------------------------------------------------------------------------------------------------- initial values


@dataclasses.dataclass(frozen=True)
class Fresh:
    """Initializes a role at random by its model, from the run's seed and the role's name."""


@dataclasses.dataclass(frozen=True)
class CopyOf:
    """Starts a role equal to another one, in buffers of its own."""

    role: str


@dataclasses.dataclass(frozen=True)
class Restored:
    """Starts a role from the newest checkpoint of an earlier pipeline step or of another run.

    Attributes:
        stage: The name of the step, or the path of the run's folder.
        role: The role in that checkpoint.
        grow: Initializes afresh what the role's model has and the checkpoint has not, a new head for example. Otherwise
            the two must agree.
    """

    stage: str
    role: str
    grow: bool = False


@dataclasses.dataclass(frozen=True)
class Value:
    """Starts a role as function(key): any pytree of arrays, for roles that are no weights."""

    function: Callable[[Key], Any]


@dataclasses.dataclass(frozen=True)
class PoolOf:
    """Starts a role as a ring of `size` copies of another role's first value, for the rule `pool` and the build
    `chosen`. Its tree is {"ring": [size, ..] leaves, "pushed", "slot"}."""

    role: str
    size: int


@dataclasses.dataclass(frozen=True)
class AdaptersOf:
    """Starts a role as low-rank adapters for the weights of another role, which change nothing yet.

    Attributes:
        role: The role with the weights.
        function: Called as function(key, first value of that role) -> adapters; a `models.lora.init` with its rank and
            targets.
    """

    role: str
    function: Fn


@dataclasses.dataclass(frozen=True)
class Through:
    """Starts a role as function(tree) of what another start gives. The model then runs on what the function makes:
    `through(restored("sft", "policy"), fn(models.quantize))` gives weights in few bits."""

    start: Any
    function: Fn


fresh, copy_of, restored, value, pool_of = Fresh, CopyOf, Restored, Value, PoolOf
adapters_of, through = AdaptersOf, Through


def unwrapped(start: Any) -> Any:
    """Returns the start below any `through`."""
    return unwrapped(start.start) if isinstance(start, Through) else start


def unchanging(roles: Mapping[str, Role]) -> tuple[str, ...]:
    """Returns the names of the roles that no step changes: neither an optimizer nor a rule moves them."""
    return tuple(name for name, role in roles.items() if role.optimizer is None and role.rule.function is frozen)


# ------------------------------------------------------------------------------------------------- rules that follow


def _leader(context: Context, state: Any, of: str) -> Any:
    """The tree of role `of` if it has the structure of `state` (adapters follow adapters), else what its model runs
    on."""
    tree = context.state.get(of)
    return tree if jax.tree.structure(tree) == jax.tree.structure(state) else context.params(of)


def _where(condition: Any, new: Any, old: Any) -> Any:
    """`new` where the condition holds, else `old`, in the dtypes of `old`."""
    return jax.tree.map(lambda old, new: jnp.where(condition, new, old).astype(old.dtype), old, new)


def ema(state: Any, context: Context, batch: Batch, key: Key, *, of: str, decay: Fraction) -> Any:
    """Follows another role by an exponential moving average: state <- decay * state + (1 - decay) * of. It is
    Nash-EMA's opponent (arXiv:2312.00886).

    Args:
        of: The role that is followed.
        decay: The share of the old average.
    """
    return jax.tree.map(
        lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state, _leader(context, state, of)
    )


def snapshot(state: Any, context: Context, batch: Batch, key: Key, *, of: str, every: Count) -> Any:
    """Copies another role after every `every` iterations. Rules read old values all at once, so a chain of snapshots is
    a history.

    Args:
        of: The role that is copied.
        every: The number of iterations between copies.
    """
    return _where((context.step + 1) % every == 0, _leader(context, state, of), state)


def return_to(state: Any, context: Context, batch: Batch, key: Key, *, of: str, every: Count = 2) -> Any:
    """Goes back to another role's value after every iteration but each `every`-th, so that the steps of a trained role
    in between only look ahead (extragradient). The state of its optimizer goes on, unless `return_moments` is its
    optimizer's rule.

    Args:
        of: The role to go back to.
        every: The number of iterations of which the last one counts.
    """
    return _where((context.step + 1) % every != 0, _leader(context, state, of), state)


def return_moments(state: Any, context: Context, batch: Batch, key: Key, *, of: str, every: Count = 2) -> Any:
    """Rule of an optimizer (`Role.optimizer_rule`) beside `return_to`: after every iteration but each `every`-th its
    state goes back to what it was before, so that moments see the gradients of the steps that stay. The count of its
    schedule goes on: learning rates are a function of all steps.

    Args:
        of: The role whose optimizer it is.
        every: The number of iterations of which the last one counts.
    """
    back = (context.step + 1) % every != 0

    def counts(part: Any) -> bool:
        return isinstance(part, optax.ScaleByScheduleState)

    return jax.tree.map(
        lambda old, new: new if counts(new) else jnp.where(back, old, new), context.state[of], state, is_leaf=counts
    )


def while_domain(
    state: Any, context: Context, batch: Batch, key: Key, *, of: str, domain: Natural, field: str = "domain"
) -> Any:
    """Follows another role while most prompts of a batch are of one domain, batch.prompts[field] == domain, and stands
    still otherwise, so that it keeps what was learned last about that domain.

    Args:
        of: The role that is followed.
        domain: The number of the domain.
        field: The field of batch.prompts [B] that holds domains.

    Raises:
        ConfigError: The batch has no such field.
    """
    domains = batch.need("prompts", field, of="while_domain")
    most = jnp.mean((domains == domain).astype(jnp.float32)) > 0.5
    return _where(most, _leader(context, state, of), state)


# ------------------------------------------------------------------------------------------------------- running means


def _zeros(key: Key, *, names: tuple[str, ...]) -> dict[str, Mean]:
    """Means of nothing."""
    return {name: Mean(jnp.zeros(()), jnp.zeros(())) for name in names}


def zero_means(*names: str) -> Value:
    """Makes a start for `running_mean`: nothing has been seen yet of the metrics of these names."""
    return Value(fn(_zeros, names=names))


def running_mean(state: Any, context: Context, batch: Batch, key: Key, *, of: str, decay: Fraction) -> Any:
    """Keeps running means of metrics that the loss `of` returns: (total, weight) <- decay * (total, weight, both with
    this iteration's added).

    The mean is total / weight, so that early values are not pulled towards 0 and an iteration counts as much as it has
    examples. decay = 1 forgets nothing.

    Args:
        state: {metric: Mean}, see `zero_means`.
        of: The name of the loss.
        decay: The factor of all that was seen before.

    Raises:
        ConfigError: There is no such metric.
    """

    def added(name: str, mean: Mean) -> Mean:
        metric = f"{of}/{name}"
        check_known(metric, context.metrics, f"running_mean finds no metric {metric!r}")
        new = context.metrics[metric]
        both = Mean(mean.total + new.total, mean.weight + new.weight)
        return jax.tree.map(lambda old, now: (decay * now).astype(old.dtype), mean, both)

    return {name: added(name, mean) for name, mean in state.items()}


# --------------------------------------------------------------------------------------------------- pools and mixtures


def pool(state: Any, context: Context, batch: Batch, key: Key, *, of: str, every: Count = 1) -> Any:
    """Keeps a ring of a role's past parameters (`pool_of`): pushes the present ones after every `every` iterations over
    the oldest, and draws which of those pushed so far the next iteration plays against (a queue of opponents).

    Args:
        state: {"ring": [size, ..] leaves, "pushed": how many were pushed, "slot": the one that was drawn}.
        of: The role whose parameters are pushed.
        every: The number of iterations between pushes.
    """
    ring, pushed = state["ring"], state["pushed"]
    size = jax.tree.leaves(ring)[0].shape[0]
    push = (context.step + 1) % every == 0
    oldest = pushed % size
    ring = jax.tree.map(
        lambda old, new: old.at[oldest].set(jnp.where(push, new, old[oldest]).astype(old.dtype)),
        ring,
        _leader(context, ring, of),
    )
    pushed = pushed + push
    slot = jax.random.randint(key, (), 0, jnp.minimum(pushed, size)).astype(state["slot"].dtype)
    return {"ring": ring, "pushed": pushed, "slot": slot}


def chosen(state: Any, params_of: Callable[[str], Any]) -> Any:
    """Builds the parameters of a `pool_of` role: those in the slot that was drawn.

    Args:
        state: {"ring": params with a leading axis of slots, "slot": the number drawn}.
        params_of: Not used.

    Returns:
        The params.
    """
    return jax.tree.map(lambda leaf: leaf[state["slot"]], state["ring"])


def combined(state: Any, params_of: Callable[[str], Any], *, of: tuple[str, ...]) -> Any:
    """Builds the parameters of a role without weights of its own: sum_k state["weights"][k] times those of role
    of[k].

    Args:
        state: {"weights": [K]}.
        params_of: Gives the params of a role.
        of: The names of K roles.

    Returns:
        The sum of params.
    """
    weights, trees = state["weights"], [params_of(name) for name in of]
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *trees)


# ------------------------------------------------------------------------------------------------------------- memories


def _empty(key: Key, *, slots: int, fields: tuple[tuple[str, tuple[int, ...], str], ...]) -> dict[str, Any]:
    """A memory without examples."""
    empty = {name: jnp.zeros((slots, *shape), dtype) for name, shape, dtype in fields}
    return {"owner": jnp.full((slots,), -1, jnp.int32), "step": jnp.zeros((slots,), jnp.int32), **empty}


def memory(slots: int, **fields: tuple[tuple[int, ...], str]) -> Value:
    """Makes a start for `remember`: an empty memory, in which "owner" is the example in a slot (-1: none) and "step"
    when it was made.

    Args:
        slots: The number of examples that there is room for.
        **fields: The shape of each field without its leading axis, and its dtype: `tokens=((2, 16), "int32")`. Fields
            are those of a Batch, keys of its prompts or completions, or log-probs ("logps/reference").
    """
    described = tuple((name, tuple(shape), dtype) for name, (shape, dtype) in fields.items())
    return Value(fn(_empty, slots=slots, fields=described))


def _field(batch: Batch, name: str) -> Any:
    """A field of a batch by the name that a memory has for it."""
    if name.startswith("logps/"):
        candidates = [batch.logps.get(name[6:])]
    else:
        candidates = [getattr(batch, name, None), batch.prompts.get(name), batch.completions.get(name)]
    if name == "pair_weight" and batch.preference is not None:
        candidates.append(jnp.ones_like(batch.preference))  # without weights every pair counts
    value = next((candidate for candidate in candidates if candidate is not None), None)
    if value is None:
        raise ConfigError(f"remember finds no {name!r} in the batch")
    return value


def remember(state: Any, context: Context, batch: Batch, key: Key) -> Any:
    """Writes the iteration's examples into a `memory`, each to the slot of its example_id modulo the number of slots:
    a newer example takes an older one's place, and a prompt always comes to the same one.

    Args:
        state: The memory.
        context: Says the step.
        batch: The examples.
        key: Not used.

    Returns:
        The new memory.

    Raises:
        ConfigError: The batch lacks example_id, which says the slot, or a field of the memory.
    """
    ids = batch.need("example_id", of="remember")
    slots, rows = state["owner"].shape[0], jnp.arange(ids.shape[0])
    slot = ids % slots
    # Of rows that share a slot the last one writes: else the device decides which one wins, field by field.
    last = jnp.full((slots,), -1).at[slot].max(rows)
    slot = jnp.where(last[slot] == rows, slot, slots)
    written = {"owner": ids, "step": jnp.broadcast_to(context.step, slot.shape)}
    return {
        name: old.at[slot].set(
            (written[name] if name in written else _field(batch, name)).astype(old.dtype), mode="drop"
        )
        for name, old in state.items()
    }
