"""Sampling completions: each prompt is extended once, then one token at a time for all completions of all prompts until
every row has stopped.

The decode step is `extend` with T = 1, so sampler and scorer are the same mathematics.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import Fn
from alignjax.models.kv_cache import Cache, with_room
from alignjax.numerics import row_keys
from alignjax.sampling.behaviors import History
from alignjax.sampling.logit_streams import (
    Filters,
    Plan,
    Sampled,
    Stream,
    default_streams,
    drawn,
    ends,
    precision,
    prefill,
    trunks_of,
)
from alignjax.sampling.refill import refilled
from alignjax.types import Array, Batch, Context, Key

__all__ = ["generate"]


class _Carry(NamedTuple):
    step: Array
    done: Array
    tokens: Array
    valid: Array
    logps: dict[str, Array]
    hidden: dict[tuple[str, str], Array]
    caches: dict[tuple[str, str], Cache]


def generate(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    n: int,
    max_tokens: int,
    behaviour: Fn,
    streams: tuple[Stream, ...] | None = None,
    filters: Filters = Filters(),
    stop: tuple[int, ...] = (2,),
    slots: int | None = None,
    weights: str | None = None,
) -> Sampled:
    """Samples n completions of at most max_tokens for every prompt of the batch; each stream's trunk runs once per
    (role, view), caches in lockstep.

    Stop tokens are sampled, scored and valid; nothing follows them. The uniform number behind a token is a function of
    the key, the prompt's example_id, the completion's number and the position, so a sample depends on neither the rest
    of the batch nor its order (without example_id, rows are numbered), nor on `slots`: None extends all completions
    together until the last has stopped; a number extends so many at a time, and gives the place of one that has stopped
    to the next (`refill`). All that is up to the rounding of logits, which XLA does otherwise in batches of another
    shape: now and then a uniform number falls between two roundings of the same distribution function, and that
    completion goes on otherwise. weights: "bfloat16" or "int8" for weights that are read faster (`decode_weights`); all
    log-probs are then by those weights.

    Raises ConfigError if a stream's role or view does not exist, or a role's model cannot be extended.
    """
    streams = default_streams(behaviour) if streams is None else streams
    plan = Plan(streams, trunks_of(context, batch, streams, weights), behaviour, filters, stop)
    assert batch.prompt is not None
    example_id = jnp.arange(batch.prompt.shape[0]) if batch.example_id is None else batch.example_id
    keys = row_keys(key, example_id, n)
    prompts = {name: prefill(trunk, batch.views[name[1]] if name[1] else batch) for name, trunk in plan.trunks.items()}
    if slots is not None and slots < keys.size:
        return refilled(plan, prompts, keys, max_tokens, slots)
    return _lockstep(plan, prompts, keys, max_tokens)


def _lockstep(plan: Plan, prompts: dict[tuple[str, str], tuple[Array, Cache]], keys: Array, max_tokens: int) -> Sampled:
    """One token for every completion per turn, until the last has stopped. prompts: what `prefill` says of each
    trunk."""
    rows, n = keys.shape
    hidden = {name: jnp.broadcast_to(last[:, None], (rows, n, last.shape[-1])) for name, (last, _) in prompts.items()}
    buffer, kept = (rows, n, max_tokens), precision(plan, hidden)
    carry = _Carry(
        step=jnp.zeros((), jnp.int32),
        done=jnp.zeros((rows, n), bool),
        tokens=jnp.zeros(buffer, jnp.int32),
        valid=jnp.zeros(buffer, bool),
        logps={name: jnp.zeros(buffer, kept) for name in ("sampler", *(stream.name for stream in plan.streams))},
        hidden=hidden,
        caches={name: with_room(cache, n, max_tokens) for name, (_, cache) in prompts.items()},
    )
    last = jax.lax.while_loop(
        lambda carry: (carry.step < max_tokens) & ~jnp.all(carry.done), lambda carry: _step(carry, keys, plan), carry
    )
    return Sampled(last.tokens, last.valid, last.logps)


def _step(carry: _Carry, keys: Array, plan: Plan) -> _Carry:
    """Draws one token for every row and extends every trunk by it."""
    uniform = jax.vmap(jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, carry.step))))(keys)
    token, scores = drawn(plan, carry.hidden, History(carry.tokens, carry.logps, carry.step), uniform)
    alive = ~carry.done
    token = jnp.where(alive, token, 0)
    hidden, caches = {}, {}
    for name, trunk in plan.trunks.items():
        states, caches[name] = trunk.extend(carry.caches[name], token[..., None], alive[..., None])
        hidden[name] = states[:, :, 0]

    def written(buffer: Array, values: Array) -> Array:
        values = jnp.where(alive, values, 0).astype(buffer.dtype)
        return jax.lax.dynamic_update_slice_in_dim(buffer, values[..., None], carry.step, axis=2)

    return _Carry(
        step=carry.step + 1,
        done=carry.done | ends(plan, token),
        tokens=written(carry.tokens, token),
        valid=written(carry.valid, alive),
        logps={name: written(carry.logps[name], value) for name, value in scores.items()},
        hidden=hidden,
        caches=caches,
    )
