"""Sampling completions: each prompt is extended once, then one token at a time for all completions of all prompts until
every row has stopped.

The decode step is `extend` with T = 1, so sampler and scorer are the same mathematics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.models.kv_cache import Cache, pick_completions, with_room
from alignjax.numerics import MASKED, row_keys, take_rows
from alignjax.sampling.behaviors import History
from alignjax.sampling.filters import Filters
from alignjax.sampling.logit_streams import Name, Plan, Sampled, Sampling, plan_of, prefill, with_experts
from alignjax.sampling.refill import refilled
from alignjax.types import SAMPLER, Array, Batch, Context, Key


class Rejection(NamedTuple):
    """Completions that are given up on the way, so that the others cost less.

    Attributes:
        rounds: (tokens so far, completions of a prompt that go on from there), in order.
        score: Samples that end there, [B,n,T] -> a number for each [B,n], of which the largest stay.
    """

    rounds: tuple[tuple[int, int], ...]
    score: Callable[[Sampled], Array]


class Blocks(NamedTuple):
    """Completions that are searched block by block: the best `keep` of a prompt go on, each in n / keep copies.

    Attributes:
        every: Tokens of a block.
        keep: How many completions of a prompt go on, a divisor of n.
        score: (samples so far, the same with their look-ahead), [B,n,T] each -> a number for each [B,n].
        ahead: Tokens of the look-ahead, greedy and then forgotten; 0: none.
        likeliest: Whether copies go on with the likeliest tokens, another one each, where others are drawn.
    """

    every: int
    keep: int
    score: Callable[[Sampled, Sampled], Array]
    ahead: int = 0
    likeliest: bool = False


class _Carry(NamedTuple):
    step: Array
    done: Array
    tokens: Array
    valid: Array
    logps: dict[str, Array]
    hidden: dict[Name, Array]
    caches: dict[Name, Cache]
    experts: dict[Name, Array]


def generate(
    context: Context, batch: Batch, key: Key, sampling: Sampling, search: Rejection | Blocks | None = None
) -> Sampled:
    """Samples completions for every prompt of the batch; each stream's backbone runs once per (role, view).

    The uniform number behind a token is a function of the key, the prompt's example_id, the completion's number and the
    position, so a sample depends on neither the rest of the batch nor its order (without example_id, rows are
    numbered), nor on `slots`. All that is up to the rounding of logits, which XLA does otherwise in batches of another
    shape: now and then a uniform number falls between two roundings of the same distribution function, and that
    completion goes on otherwise.

    Args:
        context: Roles and their params.
        batch: Prompts, and the views that streams read.
        key: Random key.
        sampling: What is sampled, and how.
        search: Which completions are given up on the way; None: none. Those that a `Rejection` leaves are what they are
            without it; of `Blocks` the first of a prompt is the best.

    Returns:
        Tokens, valid and log-probs [B,N,T]. Stop tokens are sampled, scored and valid; nothing follows them.

    Raises:
        ConfigError: If a stream's role or view does not exist, a role's model cannot be extended, slots < 1, or if
            completions are searched where there are slots.
    """
    plan = plan_of(context, batch, sampling)
    keys = row_keys(key, batch.ids(), sampling.n)
    prefilled = {
        name: prefill(backbone, batch.views[name[1]] if name[1] else batch) for name, backbone in plan.backbones.items()
    }
    prompts = {name: (last, cache) for name, (last, cache, _) in prefilled.items()}
    few = sampling.slots is not None and sampling.slots < keys.size
    if search is not None and sampling.slots is not None:
        raise ConfigError(f"generate(slots={sampling.slots}): completions are searched in lockstep; leave slots out")
    new, kept = refilled(plan, prompts, keys) if few else _lockstep(plan, prompts, keys, search)
    return with_experts(new, {name: sited for name, (*_, sited) in prefilled.items()}, kept)


def _lockstep(
    plan: Plan, prompts: dict[Name, tuple[Array, Cache]], keys: Array, search: Rejection | Blocks | None
) -> tuple[Sampled, dict[Name, Array]]:
    """One token for every completion per turn, until the last has stopped. prompts: what `prefill` says of each
    backbone. Returns the samples, and the experts that backbones keep, [B,N,T,L,k]."""
    # Every round is a loop of its own, over so many completions as are left then: shapes are static.
    (rows, n), length = keys.shape, plan.sampling.max_tokens
    hidden = {name: jnp.broadcast_to(last[:, None], (rows, n, last.shape[-1])) for name, (last, _) in prompts.items()}
    dtype = plan.precision(hidden)
    carry = _Carry(
        step=jnp.zeros((), jnp.int32),
        done=jnp.zeros((rows, n), bool),
        tokens=jnp.zeros((rows, n, length), jnp.int32),
        valid=jnp.zeros((rows, n, length), bool),
        logps={name: jnp.zeros((rows, n, length), dtype) for name in plan.logp_names()},
        hidden=hidden,
        caches={name: with_room(cache, n, length) for name, (_, cache) in prompts.items()},
        experts=plan.no_experts((rows, n, length)),
    )
    if isinstance(search, Blocks):
        last = _in_blocks(carry, keys, plan, search)
        return _sampled(last), last.experts
    for end, count in () if search is None else search.rounds:
        carry = _until(end, carry, keys, plan)
        best = jnp.argsort(-search.score(_sampled(carry)), axis=1)[:, :count]  # type: ignore[union-attr]
        best = jnp.sort(best, axis=1)  # in their old order
        carry, keys = _picked(carry, best), take_rows(keys, best)
    last = _until(length, carry, keys, plan)
    return _sampled(last), last.experts


def _in_blocks(carry: _Carry, keys: Array, plan: Plan, search: Blocks) -> _Carry:
    """Extends all completions by a block, then lets the best go on in copies, until all have stopped; best first."""
    # Copies are told apart by the random numbers of their places, or by which of the likeliest tokens each begins with.
    # At the start all are copies of one prefix. What had ended before has many copies, of which one counts.
    n, length = keys.shape[1], plan.sampling.max_tokens
    width, place = n // search.keep, jnp.arange(n)[None]
    greedy = plan._replace(sampling=dataclasses.replace(plan.sampling, filters=Filters(0.0)))

    def block(carry: _Carry) -> _Carry:
        copy, ended, end = place % width, carry.done, jnp.minimum(carry.step + search.every, length)
        if search.likeliest:
            carry = _step(carry, keys, plan, jnp.where(carry.step == 0, place, copy))
        carry = _until(end, carry, keys, plan)
        ahead = _until(jnp.minimum(end + search.ahead, length), carry, keys, greedy) if search.ahead else carry
        # Behind all others, also those of which the score knows nothing: copies of an end, and tokens that filters cut.
        nothing = (ended & (copy > 0)) | (jnp.sum(carry.logps[SAMPLER], axis=-1) < 1e-3 * MASKED)
        score = search.score(_sampled(carry), _sampled(ahead))
        best = jnp.lexsort((-score, nothing), axis=1)[:, : search.keep]
        return _picked(carry, jnp.repeat(best, width, axis=1))

    return jax.lax.while_loop(lambda carry: (carry.step < length) & ~jnp.all(carry.done), block, carry)


def _sampled(carry: _Carry) -> Sampled:
    return Sampled(carry.tokens, carry.valid, carry.logps)


def _until(end: int | Array, carry: _Carry, keys: Array, plan: Plan) -> _Carry:
    """Steps until completions have `end` tokens or have all stopped."""
    return jax.lax.while_loop(
        lambda carry: (carry.step < end) & ~jnp.all(carry.done), lambda carry: _step(carry, keys, plan), carry
    )


def _picked(carry: _Carry, index: Array) -> _Carry:
    """The completions `index` [B,n] of every prompt."""
    caches = {name: pick_completions(cache, index) for name, cache in carry.caches.items()}
    rest = carry._replace(step=(), caches={})  # type: ignore[arg-type]
    picked = jax.tree.map(lambda leaf: take_rows(leaf, index), rest)
    return picked._replace(step=carry.step, caches=caches)


def _step(carry: _Carry, keys: Array, plan: Plan, place: Array | None = None) -> _Carry:
    """Draws one token for every row, or takes that of a place [1,N] among the likeliest, and extends every backbone by
    it."""
    uniform = jax.vmap(jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, carry.step))))(keys)
    token, scores = plan.draw(carry.hidden, History(carry.tokens, carry.logps, carry.step), uniform, place)
    alive = ~carry.done
    token = jnp.where(alive, token, 0)
    hidden, caches, experts = {}, {}, {}
    for name, backbone in plan.backbones.items():
        states, caches[name], sited = backbone.extend(carry.caches[name], token[..., None], alive[..., None])
        hidden[name] = states[:, :, 0]
        for new in sited.values():
            experts[name] = jax.lax.dynamic_update_slice_in_dim(carry.experts[name], new, carry.step, axis=2)

    def written(buffer: Array, values: Array) -> Array:
        values = jnp.where(alive, values, 0).astype(buffer.dtype)
        return jax.lax.dynamic_update_slice_in_dim(buffer, values[..., None], carry.step, axis=2)

    return _Carry(
        step=carry.step + 1,
        done=carry.done | plan.ends(token),
        tokens=written(carry.tokens, token),
        valid=written(carry.valid, alive),
        logps={name: written(carry.logps[name], value) for name, value in scores.items()},
        hidden=hidden,
        caches=caches,
        experts=experts,
    )
