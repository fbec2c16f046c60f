"""The cache that training, scoring, prefill and decode share.

A cache is a shared segment per prompt, read by all its completions and never repeated, and an own segment per
completion. Layout [B,K,(N,)S,h] (K key-value heads, h head size): the batch dimensions of both attention products lead,
so that neither needs a transpose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.numerics import as_float32, take_rows, token_logps
from alignjax.types import Array, Model, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
    """Keys and values of a stretch of tokens.

    layers: a pair (k, v) with a leading axis of layers, or a tuple of such pairs, one a layer. Shared: k, v [B,K,S,h],
    valid and positions [B,S]. A completion's own: k, v [B,K,N,S,h], valid and positions [B,N,S]; in a cache with room
    k and v are [B,K N,S,h], since of a buffer with an axis of one completion XLA on CPU makes four copies a step.
    """

    layers: Any
    valid: Array
    positions: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """A prompt's segment, `shared` by its completions, and their `own`.

    used: the slots of `own` that are written (int32 scalar), or None when `own` is simply all tokens so far.
    """

    shared: Segment | None = None
    own: Segment | None = None
    used: Array | None = None


def share(cache: Cache) -> Cache:
    """Makes the own segment of a prompt, which was extended once with N = 1, the shared one of its completions."""
    segment = cache.own
    assert segment is not None
    # The axis of N is third from the end of k and v, whether or not layers are stacked in front.
    squeezed = jax.tree.map(lambda leaf: jnp.squeeze(leaf, axis=-3), segment.layers)
    return Cache(shared=Segment(squeezed, segment.valid[:, 0], segment.positions[:, 0]))


def unstack(segment: Segment) -> Segment:
    """Turns stacked layers into a tuple of layers.

    Decode keeps one array per layer, because a scanned, stacked cache is copied at every step.
    """
    layers = segment.layers
    if isinstance(layers, Mapping):  # those of several models
        layers = {role: unstack(dataclasses.replace(segment, layers=part)).layers for role, part in layers.items()}
    elif layers and not isinstance(layers[0], tuple):
        layers = _by_layer(layers)
    return dataclasses.replace(segment, layers=layers)


def _by_layer(stacked: Any) -> tuple[Any, ...]:
    """The trees of the layers, one after the other."""
    count = jax.tree.leaves(stacked)[0].shape[0]
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count))


def with_room(cache: Cache, n: int, length: int) -> Cache:
    """Makes a decode cache.

    Args:
        cache: A cache with a shared prompt.
        n: How many completions of each prompt.
        length: Tokens that each may have.

    Returns:
        The shared prompt, with empty own segments of `length` slots.
    """
    assert cache.shared is not None
    shared = unstack(cache.shared)

    def empty(leaf: Array) -> Array:
        rows, heads, _, size = leaf.shape
        return jnp.zeros((rows, heads * n, length, size), leaf.dtype)

    rows = shared.valid.shape[0]
    segment = Segment(
        jax.tree.map(empty, shared.layers), jnp.zeros((rows, n, length), bool), jnp.zeros((rows, n, length), jnp.int32)
    )
    return Cache(shared, segment, jnp.zeros((), jnp.int32))


def pick_completions(cache: Cache, index: Array) -> Cache:
    """Keeps completions `index` [B,n] of every prompt in a cache with room (`with_room`)."""
    own = cache.own
    assert own is not None
    n = own.valid.shape[1]

    def picked(leaf: Array) -> Array:
        rows, flat, *rest = leaf.shape
        by_completion = jnp.moveaxis(leaf.reshape(rows, flat // n, n, *rest), 2, 1)
        return jnp.moveaxis(take_rows(by_completion, index), 1, 2).reshape(rows, -1, *rest)

    layers = jax.tree.map(picked, own.layers)
    return Cache(
        cache.shared, Segment(layers, take_rows(own.valid, index), take_rows(own.positions, index)), cache.used
    )


def unrolled(params: Params) -> Params:
    """Slices stacked layers into a tuple of layers: once in front of a decode loop instead of in every step.

    Params that have no layers (a table) stay as they are, and of several models, by name, each is unrolled.
    """
    if "layers" not in params:
        return {name: unrolled(part) if isinstance(part, Mapping) else part for name, part in params.items()}
    layers = params["layers"]
    return params if isinstance(layers, tuple) else {**params, "layers": _by_layer(layers)}


def default_read(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads the log-prob of the token, in nats, from an lm head, and the numbers themselves from another head.

    Args:
        outputs: What heads give, [..,V] or [..,K], by "role" or "role:head".
        token: [..] int32.

    Returns:
        By the same names [..]; [..,K] of a small head with more than one number.
    """

    def read(head: str, value: Array) -> Array:
        if head in ("", "lm"):
            return token_logps(value, token)
        value = as_float32(value)
        return value[..., 0] if value.shape[-1] == 1 else value

    return {name: read(name.partition(":")[2], value) for name, value in outputs.items()}


def previous_valid(states: Array, first: Array, valid: Array) -> Array:
    """Finds the state before each token: that of the last valid token in front of it.

    Args:
        states: [B,N,T,D] of the completions' tokens.
        first: [B,D] of the prompt's last token, for tokens that have no valid one in front of them.
        valid: [B,N,T] bool.

    Returns:
        [B,N,T,D].
    """
    slots = jnp.arange(valid.shape[-1])
    latest = jax.lax.cummax(jnp.where(valid, slots, -1), axis=2)
    before = jnp.concatenate([jnp.full_like(latest[..., :1], -1), latest[..., :-1]], axis=-1)
    gathered = jnp.take_along_axis(states, jnp.maximum(before, 0)[..., None], axis=2)
    return jnp.where((before >= 0)[..., None], gathered, first[:, None, None])


def parameter_count(model: Model) -> int:
    """Counts the numbers in a model's params, without making any."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
