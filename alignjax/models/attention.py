"""Attention over several stretches of tokens at once: the one that completions of a prompt share, and each one's
own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, check_ranges, unsaid
from alignjax.models.kv_cache import Cache, Segment
from alignjax.numerics import MASKED, as_float32
from alignjax.ranges import Natural, NonNegative, Positive
from alignjax.types import Array

SCALINGS = ("linear", "llama3", "yarn", "dynamic", "longrope")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies were stretched so, for a longer context than the one first trained on (`models/rotary.py`).

    kind "linear": all divided by `factor` (arXiv:2306.15595). "llama3" (the Llama 3.1 release): a frequency that turns
    fewer than `low` times within the `original` context is divided by `factor`, one that turns more than `high` times
    stays, and those between are interpolated. "yarn" (arXiv:2309.00071 sec. 3): the same with a ramp that is linear in
    the number of the frequency, between whole ones if `whole`. "dynamic": a base that grows with the longest sequence
    of a pass, once it is longer than `original`. "longrope" (arXiv:2402.13753): each divided by its own number, of
    `short`, or of `long` in a pass with a sequence longer than `original`.

    attention: What turned queries and keys are multiplied by. temper: Queries at position t are multiplied by
    1 + temper log(1 + floor(t / original)).
    """

    kind: str
    factor: Positive
    low: Positive = 1.0
    high: Positive = 4.0
    original: Natural = 8192
    attention: Positive = unsaid(1.0)
    whole: bool = unsaid(True)
    temper: NonNegative = unsaid(0.0)
    short: tuple[Positive, ...] = unsaid(())
    long: tuple[Positive, ...] = unsaid(())

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.kind not in SCALINGS:
            raise ConfigError(f"RopeScaling.kind is {self.kind!r}; it must be one of {', '.join(SCALINGS)}")
        if (self.kind == "longrope") != bool(self.short and len(self.short) == len(self.long)):
            raise ConfigError("RopeScaling: longrope alone has short and long, a number for each frequency")


def soft_cap(x: Array, cap: float | None) -> Array:
    """Caps softly: cap * tanh(x / cap), in float32 at least. x stays where it is small; all of it if cap is None.

    Args:
        x: Any shape.
        cap: The bound; None: no bound.

    Returns:
        The capped numbers, in the shape of x.
    """
    if cap is None:
        return x
    return cap * jnp.tanh(as_float32(x) / cap)


def attend(
    q: Array,
    segments: Sequence[tuple[str, Array, Array, Array]],
    scale: float,
    softcap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Attends over several segments at once, with one softmax over all of them.

    Args:
        q: Queries [B,K,N,G,T,h].
        segments: (letters, k, v, mask) of each. The letters say how its k and v lie: "bksh" keys shared by the N
            completions, "bknsh" their own, "bmsh" their own in a decode cache, where m is k and n. mask broadcasts
            against [B,K,N,G,T,S].
        scale: What products of queries and keys are multiplied by.
        softcap: A soft cap of the scores, after that.
        sinks: A score of each head [H] that takes a share of its softmax and mixes nothing.

    Returns:
        The mixed values [B,K,N,G,T,h] in the dtype of q.
    """
    # Shared keys are one product with all N*G*T queries, never repeated. The softmax is taken over all segments without
    # joining them; the maximum only guards the exponent, so it carries no gradient.
    scores = []
    for letters, k, _, mask in segments:
        axes, queries = _in_letters(letters, q * scale)
        score = jnp.einsum(f"{axes}h,{letters}->{axes}s", queries, k, preferred_element_type=jnp.float32)
        scores.append(jnp.where(mask, soft_cap(score.reshape(*q.shape[:5], -1), softcap), MASKED))
    top = jax.lax.stop_gradient(
        functools.reduce(jnp.maximum, [jnp.max(score, axis=-1, keepdims=True) for score in scores])
    )
    if sinks is not None:
        sinks = sinks.astype(top.dtype).reshape(1, q.shape[1], 1, q.shape[3], 1, 1)
        top = jnp.maximum(top, jax.lax.stop_gradient(sinks))
    weights = [jnp.exp(score - top) for score in scores]
    total = sum(jnp.sum(weight, axis=-1, keepdims=True) for weight in weights)
    total = total if sinks is None else total + jnp.exp(sinks - top)

    def mix(weight: Array, letters: str, v: Array) -> Array:
        axes, shares = _in_letters(letters, weight.astype(v.dtype))
        return jnp.einsum(f"{axes}s,{letters}->{axes}h", shares, v, preferred_element_type=jnp.float32).reshape(q.shape)

    mixed = sum(mix(weight, letters, v) for weight, (letters, _, v, _) in zip(weights, segments, strict=True))
    return (mixed / total).astype(q.dtype)  # type: ignore[operator]


def _in_letters(letters: str, x: Array) -> tuple[str, Array]:
    """The letters of the batch axes that a segment has, and x [B,K,N,G,T,..] with those axes."""
    return ("bmgt", x.reshape(x.shape[0], -1, *x.shape[3:])) if letters == "bmsh" else ("bkngt", x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past:
    """The past that a layer's queries see: masks made once for all layers, and this layer's cached keys and values.

    shared: (k, v) or None, with its mask; own: (k, v) buffers [B,K N,S,h] written at slot `used`, or None when the new
    tokens are all there is.
    """

    shared: tuple[Array, Array] | None
    own: tuple[Array, Array] | None
    shared_mask: Array | None
    own_mask: Array
    used: Array | None

    def attend(
        self, q: Array, k: Array, v: Array, scale: float, softcap: float | None, sinks: Array | None = None
    ) -> tuple[tuple[Array, Array], Array]:
        """Attends to the past and to the new tokens.

        Args:
            q: Queries [B,N,T,H,h].
            k: New keys [B,N,T,K,h].
            v: New values [B,N,T,K,h].
            scale: See `attend`.
            softcap: See `attend`.
            sinks: See `attend`.

        Returns:
            (the keys and values to keep, the mixed values [B,N,T,H,h]).
        """
        # Shared and own keys stay two segments: concatenating them would copy the prompt's keys once for each of its N
        # completions.
        heads, letters = k.shape[3], "bknsh"
        k, v = _keys(k), _keys(v)
        if self.own is not None:
            assert self.used is not None
            letters = "bmsh"
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(
                    buffer, new.reshape(new.shape[0], -1, *new.shape[3:]).astype(buffer.dtype), self.used, axis=2
                )
                for buffer, new in zip(self.own, (k, v), strict=True)
            )
        segments = [(letters, k, v, self.own_mask)]
        if self.shared is not None:
            assert self.shared_mask is not None
            segments.insert(0, ("bksh", *self.shared, self.shared_mask))
        return (k, v), _from_groups(attend(_by_groups(q, heads), segments, scale, softcap, sinks))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Joint:
    """A prompt and its completions side by side in one row of P + N*T tokens.

    Every matrix product of a layer is done once for both, and they part only to attend. The numbers are those of
    extending first the prompt, then the completions.
    """

    prompt_mask: Array  # [B,1,1,1,P,P]
    shared_mask: Array
    own_mask: Array
    prompt: int = dataclasses.field(metadata={"static": True})
    n: int = dataclasses.field(metadata={"static": True})

    def attend(
        self, q: Array, k: Array, v: Array, scale: float, softcap: float | None, sinks: Array | None = None
    ) -> tuple[tuple[Array, Array], Array]:
        """See `Past.attend`: q [B,1,P+N*T,H,h], k and v [B,1,P+N*T,K,h]; nothing is kept."""

        def completions(x: Array) -> Array:
            return x[:, 0, self.prompt :].reshape(x.shape[0], self.n, -1, *x.shape[3:])

        shared_k, shared_v = (_keys(x[:, :, : self.prompt]) for x in (k, v))
        own_k, own_v = (_keys(completions(x)) for x in (k, v))
        heads = k.shape[3]
        prompt = [("bknsh", shared_k, shared_v, self.prompt_mask)]
        first = attend(_by_groups(q[:, :, : self.prompt], heads), prompt, scale, softcap, sinks)
        segments = [
            ("bksh", shared_k[:, :, 0], shared_v[:, :, 0], self.shared_mask),
            ("bknsh", own_k, own_v, self.own_mask),
        ]
        rest = _from_groups(attend(_by_groups(completions(q), heads), segments, scale, softcap, sinks))
        rest = rest.reshape(rest.shape[0], 1, -1, *rest.shape[3:])
        return (k[:, :, :0], v[:, :, :0]), jnp.concatenate([_from_groups(first), rest], axis=2)


def _keys(x: Array) -> Array:
    """[B,N,T,K,h] -> [B,K,N,T,h], the layout of a cache."""
    return x.transpose(0, 3, 1, 2, 4)


def _by_groups(q: Array, kv_heads: int) -> Array:
    """[B,N,T,H,h] -> [B,K,N,G,T,h]: query heads by the key-value head they share."""
    rows, n, t, heads, size = q.shape
    return q.reshape(rows, n, t, kv_heads, heads // kv_heads, size).transpose(0, 3, 1, 4, 2, 5)


def _from_groups(mixed: Array) -> Array:
    """[B,K,N,G,T,h] -> [B,N,T,H,h]."""
    rows, kv_heads, n, groups, t, size = mixed.shape
    return mixed.transpose(0, 2, 4, 1, 3, 5).reshape(rows, n, t, kv_heads * groups, size)


def masks(window: int | None, cache: Cache, valid: Array, positions: Array) -> tuple[Array | None, Array, Segment]:
    """Makes the masks of new tokens over the shared and the own segment of a cache.

    Causality goes by slot, windows by position, which counts valid tokens: neither padding nor gaps change a number.

    Args:
        window: How many latest positions a token sees; None for all.
        cache: What is in front of the tokens.
        valid: Of the new tokens, [B,N,T] bool.
        positions: Theirs, [B,N,T].

    Returns:
        The mask over the shared segment [B,1,N|1,1,T|1,S], or None; over the own one [B,1,N,1,T,S]; and the own
        segment's bookkeeping after these tokens.
    """
    # New tokens are written behind those in the cache, so one comparison of slots is causality for prefill and decoding
    # alike; the window compares positions, since slots also count padding.
    t = valid.shape[-1]
    if cache.own is None:
        start, own_valid, own_positions = 0, valid, positions
    else:
        assert cache.used is not None
        start = cache.used
        own_valid = jax.lax.dynamic_update_slice_in_dim(cache.own.valid, valid, start, axis=2)
        own_positions = jax.lax.dynamic_update_slice_in_dim(cache.own.positions, positions, start, axis=2)
    causal = jnp.arange(own_valid.shape[-1])[None] <= (start + jnp.arange(t))[:, None]
    own_mask = own_valid[:, :, None, :] & causal[None, None]
    shared = None if cache.shared is None else cache.shared.valid[:, None, None, :]
    if window is not None:
        own_mask &= positions[..., None] - own_positions[:, :, None, :] < window
        if cache.shared is not None and shared is not None:
            shared = shared & (positions[..., None] - cache.shared.positions[:, None, None, :] < window)
    expand = lambda mask: None if mask is None else mask[:, None, :, None]  # noqa: E731
    return expand(shared), own_mask[:, None, :, None], Segment((), own_valid, own_positions)


def positions_of(cache: Cache, valid: Array) -> Array:
    """Counts the valid tokens in front of each token, prompt included.

    Args:
        cache: What is in front of the tokens.
        valid: Of the tokens, [B,N,T] bool.

    Returns:
        Positions [B,N,T] int32.
    """
    before = jnp.zeros(valid.shape[:2], jnp.int32)
    if cache.shared is not None:
        before += jnp.sum(cache.shared.valid, axis=-1, dtype=jnp.int32)[:, None]
    if cache.own is not None:
        before += jnp.sum(cache.own.valid, axis=-1, dtype=jnp.int32)
    return jnp.maximum(before[..., None] + jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1, 0)
