"""The cache that training, scoring, prefill and decode share, and the seam between flax modules and plain functions.

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

from alignjax.config import ConfigError, Packing
from alignjax.models.packing import check, from_rows, pack, pays
from alignjax.numerics import token_logps
from alignjax.types import Array, Batch, Hidden, Model, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
    """Keys and values of a stretch of tokens. `layers` is a pair (k, v) with a leading axis of layers, or a tuple of
    such pairs, one a layer.

    shared: k, v [B,K,S,h], valid and positions [B,S]; own: k, v [B,K,N,S,h], valid and positions [B,N,S]. In a cache
    with room k and v are [B,K N,S,h]: of a buffer with an axis of one completion XLA on CPU makes four copies a step.
    """

    layers: Any
    valid: Array
    positions: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """shared: the prompt. own: the completions. used: slots of `own` that are written (int32 scalar), or None when
    `own` is simply all tokens so far."""

    shared: Segment | None = None
    own: Segment | None = None
    used: Array | None = None


def share(cache: Cache) -> Cache:
    """The own segment of a prompt that was extended once with N = 1, as the shared segment of its completions."""
    own = cache.own
    assert own is not None
    # The axis of N is third from the end of k and v, whether or not layers are stacked in front.
    squeezed = jax.tree.map(lambda leaf: jnp.squeeze(leaf, axis=-3), own.layers)
    return Cache(shared=Segment(squeezed, own.valid[:, 0], own.positions[:, 0]))


def unstack(segment: Segment) -> Segment:
    """Stacked layers as a tuple of layers: decode keeps one array per layer, because a scanned, stacked cache is copied
    at every step."""
    if not segment.layers or isinstance(segment.layers[0], tuple):
        return segment
    k, v = segment.layers
    return dataclasses.replace(segment, layers=tuple((k[i], v[i]) for i in range(k.shape[0])))


def with_room(cache: Cache, n: int, length: int) -> Cache:
    """A decode cache: the shared prompt, and empty own segments of `length` slots for `n` completions of each
    prompt."""
    assert cache.shared is not None
    shared = unstack(cache.shared)

    def empty(leaf: Array) -> Array:
        rows, heads, _, size = leaf.shape
        return jnp.zeros((rows, heads * n, length, size), leaf.dtype)

    rows = shared.valid.shape[0]
    own = Segment(
        jax.tree.map(empty, shared.layers), jnp.zeros((rows, n, length), bool), jnp.zeros((rows, n, length), jnp.int32)
    )
    return Cache(shared, own, jnp.zeros((), jnp.int32))


def select(cache: Cache, index: Array) -> Cache:
    """Own segments of completions `index` [B,n] of a cache with room: what search does after it has chosen which
    candidates live on."""
    own = cache.own
    assert own is not None

    def rows(leaf: Array, axis: int) -> Array:
        shape = [1] * leaf.ndim
        shape[0], shape[axis] = index.shape
        return jnp.take_along_axis(leaf, index.reshape(shape), axis=axis)

    def heads(leaf: Array) -> Array:
        apart = rows(leaf.reshape(len(leaf), -1, own.valid.shape[1], *leaf.shape[2:]), 2)
        return apart.reshape(len(leaf), -1, *leaf.shape[2:])

    layers = jax.tree.map(heads, own.layers)
    return dataclasses.replace(cache, own=Segment(layers, rows(own.valid, 1), rows(own.positions, 1)))


def unrolled(params: Params) -> Params:
    """Params whose stacked layers are a tuple of layers, sliced once in front of a decode loop instead of in every
    step. What has no layers (a table) stays as it is."""
    layers = params.get("layers", ())
    if isinstance(layers, tuple):
        return params
    count = jax.tree.leaves(layers)[0].shape[0]
    return {**params, "layers": tuple(jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(count))}


def default_read(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """The log-prob of the token in nats for an lm head, the numbers themselves for another (an axis of one dropped)."""

    def one(head: str, value: Array) -> Array:
        if head in ("", "lm"):
            return token_logps(value, token)
        value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
        return value[..., 0] if value.shape[-1] == 1 else value

    return {name: one(name.partition(":")[2], value) for name, value in outputs.items()}


def previous_valid(states: Array, first: Array, valid: Array) -> Array:
    """The state before each token: that of the last valid token in front of it, the prompt's last (`first` [B,D]) where
    there is none. [B,N,T,D]."""
    slots = jnp.arange(valid.shape[-1])
    latest = jax.lax.cummax(jnp.where(valid, slots, -1), axis=2)
    before = jnp.concatenate([jnp.full_like(latest[..., :1], -1), latest[..., :-1]], axis=-1)
    gathered = jnp.take_along_axis(states, jnp.maximum(before, 0)[..., None], axis=2)
    return jnp.where((before >= 0)[..., None], gathered, first[:, None, None])


def shared_prompt_hidden(extend: Any, joint: Any, rows: Any, group_chunks: int = 1) -> Any:
    """hidden(params, batch, sites, packing) for a decoder: the prompt is encoded once for its N completions; gradients
    flow through both.

    joint: encodes both in one run over the layers; group_chunks > 1: for groups too large for memory, extends the
    prompt first and then rematerialised pieces of the N completions over it; rows: runs the layers over packed rows,
    for a batch that has fewer slots so (steered params, whose edits may have a slot each, are run with their padding).
    """

    def hidden(params: Params, batch: Batch, sites: tuple[str, ...] = (), packing: Packing | None = None) -> Hidden:
        assert batch.prompt is not None
        assert batch.prompt_valid is not None
        assert batch.valid is not None
        edits = params.get("edits")
        if packing is not None and edits is None and pays(packing, batch):
            return _packed_hidden(rows, params, batch, sites, packing, group_chunks)
        prompt = (batch.prompt[:, None], batch.prompt_valid[:, None])
        given = (batch.tokens, batch.valid)
        if group_chunks == 1:
            states, after, sited = joint(params, prompt, given, edits, sites)
        else:
            states, cache, _ = extend(params, None, *prompt, edits)
            cache = share(cache)

            def completions(piece: tuple[Array, Array]) -> tuple[Array, Mapping[str, Array]]:
                after, _, sited = extend(params, cache, *piece, edits, sites)
                return after, sited

            after, sited = _over_groups(completions, given, group_chunks)
        last = batch.prompt.shape[1] - 1 - jnp.argmax(jnp.flip(batch.prompt_valid, -1), axis=-1)
        first = jnp.take_along_axis(states[:, 0], last[:, None, None], axis=1)[:, 0]
        return Hidden(previous_valid(after, first, batch.valid), after, sited)

    return hidden


def _packed_hidden(
    rows: Any, params: Params, batch: Batch, sites: tuple[str, ...], packing: Packing, group_chunks: int
) -> Hidden:
    """See `shared_prompt_hidden`: what `joint` gives, out of packed rows."""
    if group_chunks > 1:
        raise ConfigError("packing and group_chunks > 1 are two ways to lay out a batch; choose one")
    check(packing, batch)
    assert batch.prompt_valid is not None
    assert batch.valid is not None
    packed = pack(packing, batch.prompt_valid, batch.valid)
    states, sited = rows(params, packed, batch, sites)
    completions, last = from_rows(packed, batch.valid)
    after = completions(states)
    before = previous_valid(after, last(states), batch.valid)
    return Hidden(before, after, {site: completions(state) for site, state in sited.items()})


def _over_groups(one: Any, tree: Any, pieces: int) -> Any:
    def split(leaf: Array) -> Array:
        rows, n = leaf.shape[:2]
        if n % pieces:
            raise ValueError(f"{n} completions do not split into group_chunks={pieces}")
        return jnp.moveaxis(leaf.reshape(rows, pieces, n // pieces, *leaf.shape[2:]), 1, 0)

    def join(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, 1)
        return leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:])

    return jax.tree.map(join, jax.lax.map(jax.checkpoint(one), jax.tree.map(split, tree)))


def parameter_count(model: Model) -> int:
    """Numbers in a model's params, by eval_shape."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
