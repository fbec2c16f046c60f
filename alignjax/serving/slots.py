"""Slots that are refilled from outside: sequences of any request, extended together by one token per call.

A slot is a batch of one, as in `sampling.refill`, but the loop over tokens is the caller's, who may put a new sequence
into any slot between two tokens. All shapes are static: one program for a number of slots of one capacity, one more for
each size of prompts. The program that a sequence runs in is a function of its own lengths, so its samples are the same
whatever stands in the other slots.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.models.kv_cache import Cache, Segment
from alignjax.numerics import MASKED, as_float32, take_token
from alignjax.sampling.filters import draw, min_p, temper, top_p
from alignjax.sampling.refill import each_slot
from alignjax.types import Array, Model, Params

LARGEST_TOP = 20  # how many of the likeliest tokens are told, at most
SMALLEST_PROMPT = 32  # prompts are padded to a power of two, from this one on
CHUNK = 32  # positions of a prompt whose logits exist at a time


class Settings(NamedTuple):
    """How sequences are sampled, [S] each; top_k 0, top_p 1 and min_p 0 truncate nothing. top: whether the likeliest
    tokens are asked for."""

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    top: Array


class Slots(NamedTuple):
    """The state of S slots: the key [S] of each sequence, its tokens so far [S], its last state [S,D], its cache with
    leaves [S,1,..]."""

    keys: Array
    step: Array
    hidden: Array
    caches: Cache
    settings: Settings


class Scores(NamedTuple):
    """Log-probs [..] of tokens in nats, at temperature 1 and untruncated, with those of the likeliest tokens [..,K] and
    their ids."""

    logp: Array
    top_logp: Array
    top_token: Array


class Prompt(NamedTuple):
    """A prompt that was read: its length, its last state [D], the keys and values of its tokens, [1,K,1,P,h] a leaf."""

    length: Array
    hidden: Array
    layers: Any


def _scores(logits: Array, token: Array) -> Scores:
    top, ids = jax.lax.top_k(logits, min(LARGEST_TOP, logits.shape[-1]))
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    return Scores(take_token(logits, token) - normalizer, top - normalizer[..., None], ids)


def _extended(model: Model, params: Params, cache: Cache | None, token: Array, valid: Array) -> tuple[Array, Cache]:
    """One sequence [T] behind its cache."""
    assert model.extend is not None
    states, longer, _ = model.extend(params, cache, token[None, None], valid[None, None], params.get("edits"))
    return states[0, 0], longer


@functools.partial(jax.jit, static_argnames=("model", "scored"))
def read_prompt(
    model: Model, params: Params, tokens: Array, length: Array, *, scored: bool
) -> tuple[Prompt, Scores | None]:
    """Reads a prompt.

    Args:
        model: The network.
        params: Its params.
        tokens: Token ids [P], of which the first `length` count.
        length: How many, from 1 on.
        scored: Whether the tokens of the prompt are scored.

    Returns:
        The prompt, and with `scored` the scores [P-1] of its tokens but the first, each after those in front of it.
    """
    states, cache = _extended(model, params, None, tokens, jnp.arange(tokens.shape[0]) < length)
    assert cache.own is not None
    prompt = Prompt(length, states[length - 1], cache.own.layers)
    if not scored:
        return prompt, None

    def scores(piece: tuple[Array, Array]) -> Scores:
        return _scores(as_float32(model.heads["lm"].apply(params, piece[0])), piece[1])

    return prompt, jax.lax.map(scores, (states[:-1], tokens[1:]), batch_size=CHUNK)


def empty_slots(model: Model, params: Params, slots: int, capacity: int) -> Slots:
    """Makes idle slots.

    Args:
        model: The network.
        params: Its params.
        slots: S.
        capacity: The most tokens of a prompt with its completion.

    Returns:
        The slots.
    """
    tokens = jax.ShapeDtypeStruct((SMALLEST_PROMPT,), jnp.int32)
    prompt, _ = jax.eval_shape(
        functools.partial(read_prompt, model, scored=False), params, tokens, jax.ShapeDtypeStruct((), jnp.int32)
    )

    def room(leaf: Any) -> Array:
        _, heads, _, _, size = leaf.shape
        return jnp.zeros((slots, 1, heads, capacity, size), leaf.dtype)

    def each(value: Any, dtype: Any) -> Array:
        return jnp.full(slots, value, dtype)

    shape = (slots, 1, 1, capacity)
    segment = Segment(jax.tree.map(room, prompt.layers), jnp.zeros(shape, bool), jnp.zeros(shape, jnp.int32))
    settings = Settings(
        each(1, jnp.float32), each(0, jnp.int32), each(1, jnp.float32), each(0, jnp.float32), each(False, bool)
    )
    return Slots(
        keys=jax.random.split(jax.random.key(0), slots),
        step=each(0, jnp.int32),
        hidden=jnp.zeros((slots, *prompt.hidden.shape), prompt.hidden.dtype),
        caches=Cache(None, segment, each(0, jnp.int32)),
        settings=settings,
    )


@functools.partial(jax.jit, donate_argnames="slots")
def fill_slot(slots: Slots, slot: Array, prompt: Prompt, key: Array, settings: Settings) -> Slots:
    """Lets a slot begin a sequence.

    Args:
        slots: All slots, whose memory is used again.
        slot: The number of an idle one.
        prompt: What the sequence begins with.
        key: The random key of the sequence.
        settings: How it is sampled, one number each.

    Returns:
        The slots.
    """
    # Keys and values behind the prompt are those of whoever had the slot before, and its padding's: not valid, and
    # overwritten token by token.
    own = slots.caches.own
    assert own is not None
    capacity = own.valid.shape[-1]
    places = jnp.arange(capacity)

    def put(buffer: Array, value: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(buffer, jnp.asarray(value, buffer.dtype), slot, axis=0)

    def keep(buffer: Array, leaf: Array) -> Array:
        _, heads, _, size, width = leaf.shape
        return jax.lax.dynamic_update_slice(buffer, leaf.reshape(1, 1, heads, size, width), (slot, 0, 0, 0, 0))

    valid = (places < prompt.length)[None, None]
    segment = dataclasses.replace(
        own,
        layers=jax.tree.map(keep, own.layers, prompt.layers),
        valid=put(own.valid, valid),
        positions=put(own.positions, jnp.where(valid, places, 0)),
    )
    return Slots(
        keys=slots.keys.at[slot].set(key),
        step=put(slots.step, jnp.int32(0)),
        hidden=put(slots.hidden, prompt.hidden),
        caches=Cache(None, segment, put(slots.caches.used, prompt.length)),  # type: ignore[arg-type]
        settings=jax.tree.map(put, slots.settings, settings),
    )


@functools.partial(jax.jit, static_argnames="model", donate_argnames="slots")
def next_tokens(model: Model, params: Params, slots: Slots, alive: Array) -> tuple[Slots, Array, Scores]:
    """Draws one token for every slot and extends it.

    The uniform number behind a token is that of `sampling.generate`: a function of the sequence's key and the token's
    place.

    Args:
        model: The network.
        params: Its params, layers as a tuple.
        slots: All slots, whose memory is used again.
        alive: Which of them are at work [S].

    Returns:
        The slots, the tokens [S], and their scores [S]; the likeliest tokens are 0 unless some slot asks for them.
    """
    settings = slots.settings
    uniform = jax.vmap(lambda key, step: jax.random.uniform(jax.random.fold_in(key, step)))(slots.keys, slots.step)
    logits = as_float32(model.heads["lm"].apply(params, slots.hidden))
    tempered = temper(logits, settings.temperature[:, None])
    cut = (settings.top_k > 0) | (settings.top_p < 1) | (settings.min_p > 0)
    kept = jax.lax.cond(jnp.any(cut & alive), lambda: _truncated(tempered, settings), lambda: tempered)
    token, _ = draw(kept, uniform)
    token = jnp.where(alive, token, 0)
    scores = jax.lax.cond(
        jnp.any(settings.top & alive), lambda: _scores(logits, token), lambda: _without_top(logits, token)
    )
    one = lambda cache, token, valid: _extended(model, params, cache, token[None], valid[None])  # noqa: E731
    states, caches = each_slot(one, model)(slots.caches, token, alive)
    return Slots(slots.keys, slots.step + 1, states[:, 0], caches, settings), token, scores


def _truncated(logits: Array, settings: Settings) -> Array:
    """Top-k, top-p and min-p in the order of `Filters`, for each slot its own; what is off changes nothing."""
    places = jnp.clip(settings.top_k - 1, 0, logits.shape[-1] - 1)
    threshold = jnp.take_along_axis(-jnp.sort(-logits, axis=-1), places[:, None], axis=-1)
    logits = jnp.where((settings.top_k[:, None] > 0) & (logits < threshold), MASKED, logits)
    logits = jnp.where(settings.top_p[:, None] < 1, top_p(logits, settings.top_p[:, None]), logits)
    return jnp.where(settings.min_p[:, None] > 0, min_p(logits, settings.min_p[:, None]), logits)


def _without_top(logits: Array, token: Array) -> Scores:
    shape = (*token.shape, min(LARGEST_TOP, logits.shape[-1]))
    logp = take_token(logits, token) - jax.nn.logsumexp(logits, axis=-1)
    return Scores(logp, jnp.zeros(shape, logits.dtype), jnp.zeros(shape, jnp.int32))


@jax.jit
def sequence_key(seed: Array, high: Array, example: Array, number: Array) -> Array:
    """Returns the random key of a sequence: that of `sampling.generate` for completion `number` of prompt `example`.

    Args:
        seed: The lower 32 bits of the seed.
        high: Its upper ones; 0 adds nothing.
        example: The number of the prompt.
        number: The number of the completion.
    """
    key = jax.random.key(seed)
    key = jnp.where(high > 0, jax.random.fold_in(key, high), key)
    return jax.random.fold_in(jax.random.fold_in(key, example), number)
