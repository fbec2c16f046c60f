"""Continuous batching: fewer slots than completions. A slot whose completion has ended takes the next one of the queue,
within one compiled loop, so that a straggler keeps one slot busy and not the whole batch.

A slot is a batch of one prompt with one completion, with a cache of its own, and all slots are that batch under `vmap`:
each has its own position, and any model that can be extended can be refilled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.models.kv_cache import Cache, unstack, with_room
from alignjax.sampling.behaviors import History
from alignjax.sampling.logit_streams import Name, Plan, Sampled
from alignjax.types import Array, Model


class _Slots(NamedTuple):
    """The state of S slots. sequence: the number of the completion, C = B N for none; step: its tokens so far. hidden
    [S,1,D] and caches, leaves [S,1,..], by backbone."""

    sequence: Array
    step: Array
    hidden: dict[Name, Array]
    caches: dict[Name, Cache]


class _Carry(NamedTuple):
    """handed: completions that a slot has begun, in the order of their numbers; tokens, valid, logps: [C,T] of all."""

    handed: Array
    slots: _Slots
    tokens: Array
    valid: Array
    logps: dict[str, Array]
    experts: dict[Name, Array]  # [C,T,L,k] of each backbone that keeps them


def refilled(plan: Plan, prompts: dict[Name, tuple[Array, Cache]], keys: Array) -> tuple[Sampled, dict[Name, Array]]:
    """Draws the samples that `generate` draws in lockstep, from `slots` slots.

    A prompt's keys and values are copied into each slot that takes one of its completions, where in lockstep its
    completions share them: what `slots` saves in time it may cost in memory when prompts are long.

    Args:
        plan: What is sampled.
        prompts: What `prefill` says of each backbone.
        keys: A random key per completion [B,N].

    Returns:
        Tokens, valid and log-probs [B,N,T]; the experts that backbones keep, [B,N,T,L,k].

    Raises:
        ConfigError: If there are no slots, or a view has other rows than the batch.
    """
    # Completions are numbered 0 .. C-1, a row of the buffers each. A turn hands numbers to idle slots, then draws one
    # token for every slot; it ends when all numbers are handed out and all slots are idle (number C).
    (rows, n), length, slots = keys.shape, plan.sampling.max_tokens, plan.sampling.slots
    count = rows * n
    if slots is None or slots < 1:
        raise ConfigError(f"generate(slots={slots}); it must be a positive number, or None for all at once")
    wrong = [name for name, (last, _) in prompts.items() if last.shape[0] != rows]
    if wrong:
        raise ConfigError(f"view {wrong[0][1]!r} has {prompts[wrong[0]][0].shape[0]} prompts, the batch {rows}")
    keys = keys.reshape(count)
    idle = _idle(prompts, count, length, slots)
    dtype = plan.precision(idle.hidden)
    carry = _Carry(
        handed=jnp.zeros((), jnp.int32),
        slots=idle,
        tokens=jnp.zeros((count, length), jnp.int32),
        valid=jnp.zeros((count, length), bool),
        logps={name: jnp.zeros((count, length), dtype) for name in plan.logp_names()},
        experts=plan.no_experts((count, length)),
    )
    last = jax.lax.while_loop(
        lambda carry: (carry.handed < count) | jnp.any(carry.slots.sequence < count),
        lambda carry: _step(_fill(carry, prompts, n), keys, plan),
        carry,
    )
    tokens, valid, logps, experts = jax.tree.map(
        lambda leaf: leaf.reshape(rows, n, *leaf.shape[1:]), (last.tokens, last.valid, last.logps, last.experts)
    )
    return Sampled(tokens, valid, logps), experts


def each_slot(extend: Callable[..., Any], model: Model) -> Callable[..., Any]:
    """Makes of a function of one slot that of all: together, or one after the other where the model is a mixture of
    experts, whose products by expert have no batched form in jax.

    Args:
        extend: Of the arrays of one slot.
        model: Whose `extend` it runs.

    Returns:
        The function of arrays with an axis of slots in front.
    """
    if getattr(model.config, "experts", 0):
        return lambda *slots: jax.lax.map(lambda slot: extend(*slot), slots)
    return jax.vmap(extend)


def _idle(prompts: dict[Name, tuple[Array, Cache]], count: int, max_tokens: int, slots: int) -> _Slots:
    """Idle slots, with room for a prompt and a completion each."""

    def repeated(leaf: Array) -> Array:
        return jnp.zeros((slots, *leaf.shape), leaf.dtype)

    hidden, caches = {}, {}
    for name, (last, cache) in prompts.items():
        room = with_room(jax.tree.map(lambda leaf: leaf[:1], cache), 1, max_tokens)
        caches[name], hidden[name] = jax.tree.map(repeated, (room, last[:1]))
    return _Slots(jnp.full(slots, count, jnp.int32), jnp.zeros(slots, jnp.int32), hidden, caches)


def hand_out(
    slots: _Slots, slot: Array, number: Array, prompt: Array, prompts: dict[Name, tuple[Array, Cache]]
) -> _Slots:
    """Lets slot `slot` begin completion `number`, whose prompt is `prompt`.

    Keys and values of the slot's last completion stay where they are: nothing that is not valid is seen.

    Args:
        slots: All slots.
        slot: The number of the free one.
        number: The number of the completion.
        prompt: The row of its prompt.
        prompts: State [B,D] and cache of all prompts, by backbone.

    Returns:
        The slots.
    """
    # The loop around this needs fixed shapes, so one row of every buffer is overwritten at a traced index; of the old
    # completion only `valid` is cleared, since keys and values would be much more to write.

    def put(buffer: Array, value: Any) -> Array:
        return jax.lax.dynamic_update_index_in_dim(buffer, jnp.asarray(value, buffer.dtype), slot, axis=0)

    def of_prompt(leaf: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(leaf, prompt, 1, axis=0)

    hidden, caches = {}, {}
    for name, (last, cache) in prompts.items():
        old = slots.caches[name]
        assert cache.shared is not None
        assert old.own is not None
        assert old.used is not None
        shared = jax.tree.map(lambda buffer, leaf: put(buffer, of_prompt(leaf)), old.shared, unstack(cache.shared))
        unseen = put(old.own.valid, jnp.zeros(old.own.valid.shape[1:], bool))
        caches[name] = Cache(shared, dataclasses.replace(old.own, valid=unseen), put(old.used, 0))
        hidden[name] = put(slots.hidden[name], of_prompt(last))
    return _Slots(put(slots.sequence, number), put(slots.step, 0), hidden, caches)


def _fill(carry: _Carry, prompts: dict[Name, tuple[Array, Cache]], n: int) -> _Carry:
    """Hands completions to idle slots, one after the other, as long as there are both: what it costs is in proportion
    to what it hands out."""
    count = carry.tokens.shape[0]

    def body(state: tuple[Array, _Slots]) -> tuple[Array, _Slots]:
        handed, slots = state
        return handed + 1, hand_out(slots, jnp.argmax(slots.sequence == count), handed, handed // n, prompts)

    def more(state: tuple[Array, _Slots]) -> Array:
        return (state[0] < count) & jnp.any(state[1].sequence == count)

    handed, slots = jax.lax.while_loop(more, body, (carry.handed, carry.slots))
    return carry._replace(handed=handed, slots=slots)


def _step(carry: _Carry, keys: Array, plan: Plan) -> _Carry:
    """Draws one token for every busy slot, and extends every backbone by it."""
    # An idle slot reads the last completion's row, and what it would write is dropped.
    sequence, step = carry.slots.sequence, carry.slots.step
    count, length = carry.tokens.shape
    alive, mine = sequence < count, jnp.minimum(sequence, count - 1)
    uniform = jax.vmap(lambda key, step: jax.random.uniform(jax.random.fold_in(key, step)))(keys[mine], step)
    logps = {name: value[mine][:, None] for name, value in carry.logps.items()}
    history = History(carry.tokens[mine][:, None], logps, step[:, None, None])
    token, scores = plan.draw(carry.slots.hidden, history, uniform[:, None])
    token = jnp.where(alive, token[:, 0], 0)
    hidden, caches, kept = {}, {}, {}
    for name, backbone in plan.backbones.items():
        states, caches[name], sited = each_slot(backbone.extend, backbone.model)(
            carry.slots.caches[name], token[:, None, None, None], alive[:, None, None, None]
        )
        hidden[name] = states[:, 0, :, 0]
        for experts in sited.values():
            kept[name] = experts[:, 0, 0, 0]

    def written(buffer: Array, values: Array) -> Array:
        return buffer.at[sequence, step].set(values.astype(buffer.dtype), mode="drop")  # C is no row

    done = plan.ends(token) | (step + 1 == length)
    slots = _Slots(jnp.where(done, count, sequence), step + 1, hidden, caches)
    return _Carry(
        handed=carry.handed,
        slots=slots,
        tokens=written(carry.tokens, token),
        valid=written(carry.valid, alive),
        logps={name: written(carry.logps[name], value[:, 0]) for name, value in scores.items()},
        experts={name: written(carry.experts[name], experts) for name, experts in kept.items()},
    )
