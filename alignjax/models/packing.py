"""Rows without padding: the tokens of several prompts and their completions laid end to end for one run of a trunk.

A layout inside scoring, which no Batch ever shows: a block of prompts goes in, each of P + N*T slots with holes, and
comes back as it was. What a token sees in the packed row is what it saw before: its prompt, and its own completion up
to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError, Packing
from alignjax.types import Array, Batch


class Packed(NamedTuple):
    """Where the slots of packed rows [R,L] come from, and where the completions' slots and the prompts' last tokens lie
    in them."""

    source: Array  # [R,L] which of the row's k (P + N*T) padded slots is in a packed one
    filled: Array  # [R,L] whether any is
    prompt: Array  # [R,L] which of the row's k prompts it belongs to
    part: Array  # [R,L] 0 in a prompt, 1 + n in completion n
    slots: Array  # [R,k*N*T] where a completion's slot went; anything where it holds no token
    back: Array  # [R,L] which of the k*N*T a packed slot holds; anything where it holds none of them
    last: Array  # [R,k] where the last token of each prompt went
    fits: Array  # whether no token was left out


def packs(packing: Packing, prompt_valid: np.ndarray, valid: np.ndarray, microbatches: int = 1) -> bool:
    """Whether every row that `packing` makes of a batch (prompt_valid [B,P], valid [B,N,T]) holds all its tokens. On
    the host: what decides which of two programs runs. True for a batch that does not split: `check` says more."""
    if len(valid) % (packing.prompts * microbatches):
        return True
    tokens = prompt_valid.sum(axis=1) + valid.sum(axis=(1, 2))
    # microbatch m is made of rows m, m + microbatches, ...
    pieces = tokens.reshape(-1, microbatches).T
    return bool(np.all(pieces.reshape(microbatches, -1, packing.prompts).sum(axis=-1) <= packing.length))


def check(packing: Packing, batch: Batch) -> None:
    """Raises ConfigError unless the batch splits into rows of `packing.prompts` prompts."""
    assert batch.tokens is not None
    rows = batch.tokens.shape[0]
    if rows % packing.prompts:
        raise ConfigError(
            f"packing: {rows} prompts (of a microbatch) do not split into rows of {packing.prompts}; make the one a "
            "multiple of the other"
        )


def pays(packing: Packing, batch: Batch) -> bool:
    """Whether packed rows are shorter than padded ones: not for the small shapes of bucketed batches."""
    assert batch.prompt is not None
    assert batch.tokens is not None
    _, n, t = batch.tokens.shape
    return packing.length < packing.prompts * (batch.prompt.shape[1] + n * t)


def pack(packing: Packing, prompt_valid: Array, valid: Array) -> Packed:
    """The layout of a batch: prompt_valid [B,P], valid [B,N,T]."""
    (rows, p), (_, n, t), k = prompt_valid.shape, valid.shape, packing.prompts
    whole = jnp.concatenate([prompt_valid, valid.reshape(rows, n * t)], axis=1).reshape(rows // k, k * (p + n * t))
    slot = jnp.cumsum(whole, axis=1, dtype=jnp.int32) - 1
    count = slot[:, -1] + 1
    source = jnp.argsort(~whole, axis=1, stable=True)[:, : packing.length]
    filled = jnp.arange(packing.length) < count[:, None]
    prompt, inside = jnp.divmod(source, p + n * t)
    by_prompt = slot.reshape(rows // k, k, p + n * t)
    return Packed(
        source,
        filled,
        prompt,
        jnp.where(inside < p, 0, 1 + (inside - p) // t),
        by_prompt[:, :, p:].reshape(rows // k, k * n * t),
        prompt * n * t + jnp.maximum(inside - p, 0),
        # prompts end at their last slot, or, right-padded, at the last that counted
        by_prompt[:, :, p - 1],
        jnp.all(count <= packing.length),
    )


def into_rows(packed: Packed, prompts: Array, completions: Array) -> Array:
    """Numbers per slot, of prompts [B,P] and completions [B,N,T], as packed rows [R,1,L]."""
    rows = packed.source.shape[0]
    whole = jnp.concatenate([prompts, completions.reshape(completions.shape[0], -1)], axis=1).reshape(rows, -1)
    return jnp.take_along_axis(whole, packed.source, axis=1)[:, None]


def packed_mask(packed: Packed, positions: Array, window: int | None) -> Array:
    """Which packed slot sees which, [R,1,1,1,L,L], for positions [R,1,L]."""
    slots = jnp.arange(packed.source.shape[1])
    own = packed.part[:, None, :] == packed.part[:, :, None]
    see = packed.filled[:, None] & (slots <= slots[:, None]) & (own | (packed.part[:, None] == 0))
    see &= packed.prompt[:, None, :] == packed.prompt[:, :, None]
    if window is not None:
        see &= positions[:, 0, :, None] - positions[:, 0, None, :] < window
    return see[:, None, None, None]


def from_rows(packed: Packed, valid: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """(states [R,1,L,..] -> those of the completions [B,N,T,..], 0 where there is no token; the same -> those of each
    prompt's last token [B,..]). NaN if the rows do not hold every token: none is ever left out unseen."""
    there = valid.reshape(packed.slots.shape)

    def flagged(x: Array) -> Array:
        return jnp.where(packed.fits, x[:, 0], jnp.nan)

    def completions(x: Array) -> Array:
        found = _gathered(flagged(x), packed.slots, there, packed.back, packed.filled & (packed.part > 0))
        return found.reshape(*valid.shape, *x.shape[3:])

    def last(x: Array) -> Array:
        return _at(flagged(x), packed.last, jnp.ones_like(packed.last, bool)).reshape(valid.shape[0], *x.shape[3:])

    return completions, last


@jax.custom_vjp
def _gathered(x: Array, slots: Array, there: Array, back: Array, own: Array) -> Array:
    """x [R,L,..] at slots [R,M], 0 where not there. A slot is asked for once at most, so the gradient is a gather too,
    by `back` [R,L] where `own`; the one jax derives is a scatter."""
    return _at(x, slots, there)


def _at(x: Array, index: Array, there: Array) -> Array:
    ones = [1] * (x.ndim - 2)
    found = jnp.take_along_axis(x, index.reshape(*index.shape, *ones), axis=1, mode="clip")
    return jnp.where(there.reshape(*there.shape, *ones), found, 0)


def _gathered_forward(
    x: Array, slots: Array, there: Array, back: Array, own: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _at(x, slots, there), (back, own)


def _gathered_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, None, None, None, None]:
    return _at(g, *kept), None, None, None, None


_gathered.defvjp(_gathered_forward, _gathered_backward)
