"""Stages that choose by a property of the prompt what a batch trains: targets, pairs, the winner of a pair."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError, nearest
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

__all__ = ["prefer_configured", "route_pairs", "route_targets"]


def route_targets(
    context: Context, batch: Batch, key: Key, *, by: str = "factual", targets: tuple[tuple[int, ...], ...]
) -> Batch:
    """Leaves in `mask` only the completions that the class of a prompt trains on, as FLAME takes the model's own answer
    for prompts that ask for facts and a human's for all others (arXiv:2405.01525).

    by: batch.prompts[by] [B] holds classes from 0; targets[c]: the completions that prompts of class c learn.
    `targets=((0,), (1,))` with a human text first and an own answer second is FLAME's supervised step with `sft`. A
    class without targets trains nothing. Raises ConfigError if a target is not in the batch.
    """
    assert batch.tokens is not None
    n = batch.tokens.shape[1]
    if any(not 0 <= target < n for group in targets for target in group):
        raise ConfigError(f"targets={targets} do not fit a batch with {n} completions a prompt")
    table = jnp.array([[i in group for i in range(n)] for group in targets], jnp.float32)  # [C,N]
    mask = batch.mask if batch.mask is not None else batch.valid
    assert mask is not None
    kept = _by_class(batch, by, table)
    return batch.replace(mask=mask * kept[..., None])


def route_pairs(
    context: Context, batch: Batch, key: Key, *, by: str = "factual", pairs: tuple[tuple[tuple[int, int], ...], ...]
) -> Batch:
    """Sets `pair_weight` to 0 for the pairs that the class of a prompt does not train on, as FLAME adds pairs ordered
    by factuality for prompts that ask for facts alone (arXiv:2405.01525).

    by: batch.prompts[by] [B] holds classes from 0; pairs[c]: the pairs of completions of class c, in any order. With
    two entries, fn(dpo, pairs=((0, 1),)) and fn(dpo, pairs=((2, 3),)), `pairs=(((0, 1),), ((0, 1), (2, 3)))` is FLAME's
    preference step. Weights that the batch has are kept. Raises ConfigError if a pair is not in the batch.
    """
    assert batch.tokens is not None
    n = batch.tokens.shape[1]
    if any(not (0 <= i < n and 0 <= j < n and i != j) for group in pairs for i, j in group):
        raise ConfigError(f"pairs={pairs} do not fit a batch with {n} completions a prompt")
    table = jnp.array(
        [[[(i, j) in group or (j, i) in group for j in range(n)] for i in range(n)] for group in pairs], jnp.float32
    )  # [C,N,N]
    kept = _by_class(batch, by, table)
    return batch.replace(pair_weight=kept if batch.pair_weight is None else batch.pair_weight * kept)


def _by_class(batch: Batch, by: str, table: Array) -> Array:
    """The row of `table` [C,..] for the class of each prompt, [B,..]; zeros for a class that it does not have."""
    if by not in batch.prompts:
        raise ConfigError(f"there is no batch.prompts[{by!r}] to route by.{nearest(by, batch.prompts)}")
    member = (batch.prompts[by][:, None] == jnp.arange(len(table))).astype(table.dtype)
    return jnp.tensordot(member, table, axes=1)


def prefer_configured(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    risks: str = "risks",
    answered: str = "answered",
    allowed: str = "allowed",
    accepted: float = 0.1,
    missed: float = 1.0,
    breached: float = 3.0,
    gap: float = 0.0,
) -> tuple[Batch, Metrics]:
    """Prefers the completion with the smaller error under the safety configuration of its prompt: error = accepted *
    allowed risks + breached * forbidden risks + missed * (1 - answered), as CoSAlign makes its pairs
    (arXiv:2410.08968).

    batch.completions[risks] [B,N,R]: which categories of risk a completion contains, in [0, 1]; completions[answered]
    [B,N]: whether it answers, in [0, 1]; prompts[allowed] [B,R]: 1 for the categories that the configuration allows.
    The configuration has to stand in the prompt's text too, and the same completions may be listed under many. Fills
    reward = -error, preference, and pair_weight 1 where errors differ by more than `gap`. The three sizes are ours;
    what matters is their order: a forbidden risk is worse than no answer, and no answer worse than an allowed risk.
    Raises ConfigError if one of the three fields is missing.
    """
    absent = [f"completions[{name!r}]" for name in (risks, answered) if name not in batch.completions]
    absent += [f"prompts[{allowed!r}]"] * (allowed not in batch.prompts)
    if absent:
        raise ConfigError(f"prefer_configured needs batch.{' and batch.'.join(absent)}; a source or a stage fills them")
    free = batch.prompts[allowed][:, None, :]
    cost = jnp.where(free > 0, accepted, breached)
    error = jnp.sum(batch.completions[risks] * cost, axis=-1) + missed * (1 - batch.completions[answered])
    better = error[:, None, :] - error[:, :, None]  # by how much i is better than j
    breached_rows = jnp.any((batch.completions[risks] > 0.5) & (free == 0), axis=-1)
    filled = batch.replace(
        reward=-error,
        preference=(jnp.sign(better) + 1) / 2,
        pair_weight=(jnp.abs(better) > gap).astype(error.dtype),
    )
    return filled, {"error": Mean.of(error), "breaches": Mean.of(breached_rows)}
