"""Stages that choose: which completions are compared, which prompts come back, which get new responses."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, fn
from alignjax.numerics import row_keys
from alignjax.parallel.mesh import shard_rows
from alignjax.sampling.behaviors import own
from alignjax.stages.completions import generate
from alignjax.stages.given import reward_of
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

__all__ = ["best_and_worst", "gap_weights", "ranked", "regenerate", "regret", "rewrite", "select_prompts"]


def best_and_worst(context: Context, batch: Batch, key: Key, *, keep: tuple[int, ...] = ()) -> Batch:
    """Keeps two completions of every prompt, the first of the best and the last of the worst by reward, in this order;
    after them, the completions `keep` (what SELM explores; -1 is the last). Raises ConfigError without rewards."""
    order = jnp.argsort(-reward_of(batch, "best_and_worst"), axis=1)  # stable, so ties keep their order
    numbers = jnp.array(keep, order.dtype) % order.shape[1]
    others = jnp.broadcast_to(numbers, (order.shape[0], len(keep)))
    return batch.pick(jnp.concatenate([order[:, :1], order[:, -1:], others], axis=1))


def ranked(context: Context, batch: Batch, key: Key) -> Batch:
    """Orders the completions of every prompt by reward, best first, so that pairs are pairs of ranks. Raises
    ConfigError without rewards."""
    return batch.pick(jnp.argsort(-reward_of(batch, "ranked"), axis=1))


def gap_weights(context: Context, batch: Batch, key: Key) -> Batch:
    """Multiplies pair_weight [B,N,N] with |r_i - r_j|, what a pair can teach. Raises ConfigError without rewards.

    A loss is a weighted mean, so only the proportions matter. OPTune weighs pairs by such a utility; its exact form is
    not known to us, and this one is our choice (arXiv:2406.07657).
    """
    reward = reward_of(batch, "gap_weights")
    gap = jnp.abs(reward[:, :, None] - reward[:, None, :])
    return batch.replace(pair_weight=gap if batch.pair_weight is None else batch.pair_weight * gap)


def regret(context: Context, batch: Batch, key: Key) -> tuple[Batch, Metrics]:
    """Fills prompts["priority"] [B]: max - min of a prompt's rewards, the estimated regret of the policy there (eva's
    informativeness, arXiv:2411.00062). Raises ConfigError without rewards."""
    reward = reward_of(batch, "regret")
    priority = jnp.max(reward, axis=1) - jnp.min(reward, axis=1)
    return batch.replace(prompts={**batch.prompts, "priority": priority}), {"regret": Mean.of(priority)}


def select_prompts(
    context: Context, batch: Batch, key: Key, *, count: int, role: str = "prompts"
) -> tuple[Batch, Metrics]:
    """Replaces the first `count` prompts of the batch by remembered ones, drawn without replacement in proportion to
    their priority (eva's creator, arXiv:2411.00062); where too few are remembered, the batch's own stay.

    role: a memory of "prompt", "prompt_valid" and "priority" (`roles.memory`). Raises ConfigError if count is not
    between 0 and the batch size or the number of remembered prompts.
    """
    assert batch.prompt is not None
    assert batch.prompt_valid is not None
    memory, rows = context.state[role], batch.prompt.shape[0]
    slots = memory["owner"].shape[0]
    if not 0 <= count <= min(rows, slots):
        raise ConfigError(f"select_prompts(count={count}) from {slots} remembered prompts into a batch of {rows}")
    possible = (memory["owner"] >= 0) & (memory["priority"] > 0)
    noise = jax.random.gumbel(key, (slots,))  # the `count` largest of log weight + noise: a draw without replacement
    score = jnp.where(possible, jnp.log(jnp.where(possible, memory["priority"], 1)) + noise, -jnp.inf)
    drawn, slot = jax.lax.top_k(score, count)
    known = jnp.isfinite(drawn)

    def mixed(own_rows: Array, kept: Array) -> Array:
        shape = (count, *[1] * (own_rows.ndim - 1))
        chosen = jnp.where(known.reshape(shape), kept[slot].astype(own_rows.dtype), own_rows[:count])
        return _first_are(chosen, own_rows)

    example_id = jnp.arange(rows) if batch.example_id is None else batch.example_id
    filled = batch.replace(
        prompt=mixed(batch.prompt, memory["prompt"]),
        prompt_valid=mixed(batch.prompt_valid, memory["prompt_valid"]),
        example_id=mixed(example_id, memory["owner"]),
    )
    return filled, {"selected": Mean.of(known.astype(jnp.float32))}


def rewrite(
    context: Context, batch: Batch, key: Key, *, count: int, role: str = "rewriter", behaviour: Fn | None = None
) -> tuple[Batch, Metrics]:
    """Replaces the first `count` prompts by what `role` says when it reads them, a variant of each as long as a prompt
    may be (eva's evolution, arXiv:2411.00062). A prompt about which it says nothing stays.

    A variant has an example_id of its own, the old one's hash. The stop token is part of the variant, as the sampler
    gave it. Raises ConfigError if count is larger than the batch.
    """
    assert batch.prompt is not None
    assert batch.prompt_valid is not None
    rows, length = batch.prompt.shape
    if not 0 <= count <= rows:
        raise ConfigError(f"rewrite(count={count}) of {rows} prompts")
    example_id = jnp.arange(rows) if batch.example_id is None else batch.example_id
    old = Batch(prompt=batch.prompt, prompt_valid=batch.prompt_valid, example_id=example_id).take(jnp.arange(count))
    said, metrics = generate(context, old, key, n=1, max_tokens=length, behaviour=behaviour or fn(own, stream=role))
    assert said.tokens is not None
    assert said.valid is not None
    # Prompts are padded on the left: what is valid, and comes first in a completion, goes last.
    order = jnp.argsort(said.valid[:, 0], axis=1)
    tokens, valid = (jnp.take_along_axis(leaf[:, 0], order, axis=1) for leaf in (said.tokens, said.valid))
    changed = jnp.sum(valid, axis=1) > 1  # more than a stop token
    mixed_id = (example_id[:count] * 1000003 + 12345) & 0x7FFFFFFF
    kept, kept_valid = batch.prompt[:count], batch.prompt_valid[:count]
    new = {
        "prompt": _first_are(jnp.where(changed[:, None], tokens, kept), batch.prompt),
        "prompt_valid": _first_are(jnp.where(changed[:, None], valid, kept_valid), batch.prompt_valid),
        "example_id": _first_are(jnp.where(changed, mixed_id, example_id[:count]), example_id),
    }
    # Else the compiler lays them, and all states computed from them, out as the next sampler's.
    return batch.replace(**shard_rows(new)), metrics


def _first_are(new: Array, rows: Array) -> Array:
    """rows [B,..] with new [k,..] in the place of the first k, row by row: with a concatenation and a written slice,
    laid out over some axes of a mesh and not others, XLA on CPU gave other numbers."""
    if not len(new):
        return rows
    number = jnp.arange(len(rows))
    here = (number < len(new)).reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.where(here, new[jnp.minimum(number, len(new) - 1)], rows)


def regenerate(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    count: int,
    n: int,
    max_tokens: int,
    role: str = "responses",
    behaviour: Fn = fn(own),
) -> tuple[Batch, Metrics]:
    """Samples n new completions for the `count` prompts that need them most and takes the remembered ones of all others
    (OPTune's saving, arXiv:2406.07657): first prompts without any, then those whose mean reward was lowest.

    role: a memory of "tokens", "valid" [slots,n,max_tokens] and "reward" (`roles.memory`). Only `count` rows are
    sampled, which is what is saved. A prompt that has no responses yet and gets none now has empty completions and
    pair_weight 0. Raises ConfigError if count is not between 1 and the batch size, or the memory is of another shape.
    """
    assert batch.prompt is not None
    memory, rows = context.state[role], batch.prompt.shape[0]
    if not 1 <= count <= rows:
        raise ConfigError(f"regenerate(count={count}) for a batch of {rows} prompts")
    if memory["tokens"].shape[1:] != (n, max_tokens):
        raise ConfigError(
            f"role {role!r} remembers {memory['tokens'].shape[1:]} tokens a prompt, not {(n, max_tokens)}"
        )
    example_id = jnp.arange(rows) if batch.example_id is None else batch.example_id
    slot = example_id % memory["owner"].shape[0]
    known = memory["owner"][slot] == example_id
    worth = jnp.where(known, jnp.mean(memory["reward"][slot], axis=-1), -jnp.inf)
    chosen = jnp.argsort(worth)[:count]
    bare = Batch(prompt=batch.prompt, prompt_valid=batch.prompt_valid, example_id=example_id)
    new, metrics = generate(context, bare.take(chosen), key, n=n, max_tokens=max_tokens, behaviour=behaviour)
    assert new.valid is not None
    tokens = memory["tokens"][slot].at[chosen].set(new.tokens)
    valid = (memory["valid"][slot] & known[:, None, None]).at[chosen].set(new.valid)
    there = known.at[chosen].set(True).astype(jnp.float32)
    filled = batch.replace(
        tokens=tokens,
        valid=valid,
        mask=valid.astype(jnp.float32),
        example_id=example_id,
        pair_weight=jnp.broadcast_to(there[:, None, None], (rows, n, n)),
    )
    return filled, {**metrics, "reused": Mean.of(there.at[chosen].set(0))}


def uniforms(batch: Batch, key: Key, n: int) -> Array:
    """One uniform number per completion [B,n], a function of the example only."""
    assert batch.prompt is not None
    example_id = jnp.arange(batch.prompt.shape[0]) if batch.example_id is None else batch.example_id
    return jax.vmap(jax.vmap(jax.random.uniform))(row_keys(key, example_id, n))
