"""Stages that choose by a property of the prompt what a batch trains: targets, pairs, the winner of a pair."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.pair_layout import check_pairs, weigh_pairs
from alignjax.ranges import Natural, NonNegative
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def route_targets(
    context: Context, batch: Batch, key: Key, *, by: str = "factual", targets: tuple[tuple[Natural, ...], ...]
) -> Batch:
    """Leaves in `mask` only the completions that the class of a prompt trains on, as FLAME takes the model's own answer
    for prompts that ask for facts and a human's for all others (arXiv:2405.01525).

    `targets=((0,), (1,))` with a human text first and an own answer second is FLAME's supervised step with `sft`.

    Args:
        context: Not used.
        batch: Completions.
        key: Not used.
        by: batch.prompts[by] [B] holds classes from 0.
        targets: The completions that prompts of class c learn, by c. A class without targets trains nothing.

    Returns:
        The batch with a mask [B,N,T].

    Raises:
        ConfigError: If a target is not in the batch.
    """
    n = batch.need("tokens", of="route_targets").shape[1]
    if any(not 0 <= target < n for group in targets for target in group):
        raise ConfigError(f"targets={targets} do not fit a batch with {n} completions a prompt")
    table = jnp.array([[i in group for i in range(n)] for group in targets], jnp.float32)  # [C,N]
    mask = batch.mask if batch.mask is not None else batch.need("valid", of="route_targets")
    return batch.replace(mask=mask * _by_class(batch, by, table)[..., None])


def route_pairs(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    by: str = "factual",
    pairs: tuple[tuple[tuple[Natural, Natural], ...], ...],
) -> Batch:
    """Sets `pair_weight` to 0 for the pairs that the class of a prompt does not train on, as FLAME adds pairs ordered
    by factuality for prompts that ask for facts alone (arXiv:2405.01525).

    With two entries, fn(dpo, pairs=((0, 1),)) and fn(dpo, pairs=((2, 3),)), `pairs=(((0, 1),), ((0, 1), (2, 3)))` is
    FLAME's preference step.

    Args:
        context: Not used.
        batch: Completions.
        key: Not used.
        by: batch.prompts[by] [B] holds classes from 0.
        pairs: The pairs of completions that prompts of class c train on, in any order, by c.

    Returns:
        The batch with pair_weight [B,N,N], times the weights that it had.

    Raises:
        ConfigError: If a pair is not in the batch.
    """
    n = batch.need("tokens", of="route_pairs").shape[1]
    check_pairs([pair for group in pairs for pair in group], n)
    table = jnp.array(
        [[[(i, j) in group or (j, i) in group for j in range(n)] for i in range(n)] for group in pairs], jnp.float32
    )  # [C,N,N]
    return weigh_pairs(batch, _by_class(batch, by, table))


def _by_class(batch: Batch, by: str, table: Array) -> Array:
    """The row of `table` [C,..] for the class of each prompt, [B,..]; zeros for a class that it does not have."""
    member = (batch.need("prompts", by, of="a route")[:, None] == jnp.arange(len(table))[None]).astype(table.dtype)
    return jnp.tensordot(member, table, axes=1)


def prefer_configured(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    risks: str = "risks",
    answered: str = "answered",
    allowed: str = "allowed",
    accepted: NonNegative = 0.1,
    missed: NonNegative = 1.0,
    breached: NonNegative = 3.0,
    gap: NonNegative = 0.0,
) -> tuple[Batch, Metrics]:
    """Prefers the completion with the smaller error under the safety configuration of its prompt: error = accepted *
    allowed risks + breached * forbidden risks + missed * (1 - answered), as CoSAlign makes its pairs
    (arXiv:2410.08968).

    The configuration has to stand in the prompt's text too, and the same completions may be listed under many. The
    three sizes are ours; what matters is their order: a forbidden risk is worse than no answer, and no answer worse
    than an allowed risk.

    Args:
        context: Not used.
        batch: Completions that a classifier has looked at.
        key: Not used.
        risks: completions[risks] [B,N,R] says which categories of risk a completion contains, in [0, 1].
        answered: completions[answered] [B,N] says whether it answers, in [0, 1].
        allowed: prompts[allowed] [B,R] is 1 for the categories that the configuration allows.
        accepted: Error of an allowed risk.
        missed: Error of no answer.
        breached: Error of a forbidden risk.
        gap: Pairs whose errors differ by no more are not labeled.

    Returns:
        The batch with reward = -error, preference and pair_weight. Metrics: `error`, and `breaches`, the share of
        completions with a forbidden risk.

    Raises:
        ConfigError: If one of the three fields is missing.
    """
    # The error is one number per completion, so pairs are its differences and are transitive, and the reward is its
    # negative for losses that read no pairs.
    contained, answers = (batch.need("completions", name, of="prefer_configured") for name in (risks, answered))
    free = batch.need("prompts", allowed, of="prefer_configured")[:, None, :]
    cost = jnp.where(free > 0, accepted, breached)
    error = jnp.sum(contained * cost, axis=-1) + missed * (1 - answers)
    better = error[:, None, :] - error[:, :, None]  # by how much i is better than j
    breached_rows = jnp.any((contained > 0.5) & (free == 0), axis=-1)
    filled = batch.replace(
        reward=-error,
        preference=(jnp.sign(better) + 1) / 2,
        pair_weight=(jnp.abs(better) > gap).astype(error.dtype),
    )
    return filled, {"error": Mean.of(error), "breaches": Mean.of(breached_rows)}
