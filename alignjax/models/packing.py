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
    in them; C blocks of k prompts, each block in r rows, so that R is C r."""

    source: Array  # [C,r*L] which of the block's k (P + N*T) padded slots is in a packed one
    filled: Array  # [R,L] whether any is
    prompt: Array  # [R,L] which of the block's k prompts it belongs to
    part: Array  # [R,L] 0 in a prompt, 1 + n in completion n
    slots: Array  # [C,k*N*T] where a completion's slot went; anything where it holds no token
    back: Array  # [C,r*L] which of the k*N*T a packed slot holds; anything where it holds none of them
    last: Array  # [C,k] where the last token of each prompt went
    fits: Array  # whether no token was left out


def _loads(packing: Packing, tokens: np.ndarray) -> np.ndarray:
    """Tokens in each row, [C,rows], of blocks of prompts with so many tokens, [C,k]: what `_places` does, on the
    host."""
    load = np.zeros((len(tokens), packing.rows), np.int64)
    block = np.arange(len(tokens))
    for item in np.argsort(-tokens, axis=1, kind="stable").T:
        load[block, np.argmin(load, axis=1)] += tokens[block, item]
    return load


def _places(packing: Packing, tokens: Array) -> tuple[Array, Array]:
    """(the first slot of each prompt of a block [k], tokens in each row [rows]): the longest prompt first, each into
    the row that is emptiest."""
    order = jnp.argsort(-tokens, stable=True)

    def put(load: Array, item: Array) -> tuple[Array, Array]:
        row = jnp.argmin(load)
        return load.at[row].add(tokens[item]), row * packing.length + load[row]

    load, first = jax.lax.scan(put, jnp.zeros(packing.rows, tokens.dtype), order)
    return jnp.zeros_like(tokens).at[order].set(first), load


def packs(packing: Packing, prompt_valid: np.ndarray, valid: np.ndarray, microbatches: int = 1) -> bool:
    """Whether the rows that `packing` makes of a batch (prompt_valid [B,P], valid [B,N,T]) hold all its tokens. On the
    host: what decides which of two programs runs. True for a batch that does not split: `check` says more."""
    if len(valid) % (packing.prompts * microbatches):
        return True
    tokens = prompt_valid.sum(axis=1) + valid.sum(axis=(1, 2))
    # microbatch m is made of rows m, m + microbatches, ...
    pieces = tokens.reshape(-1, microbatches).T.reshape(-1, packing.prompts)
    return bool(_loads(packing, pieces).max() <= packing.length)


def packing_for(
    tokens: np.ndarray, prompts: int, rows: int = 1, *, padded: float = 0.02, multiple: int = 16
) -> Packing:
    """Rows just long enough that at most a share `padded` of batches is scored with its padding.

    tokens: of each prompt with all its completions, [batches, B], as a source gives them: the data's histogram.
    """
    found = _loads(Packing(prompts, 1, rows), tokens.reshape(-1, prompts)).max(axis=1)
    longest = found.reshape(len(tokens), -1).max(axis=1)
    enough = float(np.quantile(longest, 1 - padded, method="higher"))
    return Packing(prompts, multiple * int(np.ceil(enough / multiple)), rows)


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
    return packing.rows * packing.length < packing.prompts * (batch.prompt.shape[1] + n * t)


def pack(packing: Packing, prompt_valid: Array, valid: Array) -> Packed:
    """The layout of a batch: prompt_valid [B,P], valid [B,N,T]."""
    (_, p), (_, n, t), k = prompt_valid.shape, valid.shape, packing.prompts
    whole = jnp.concatenate([prompt_valid, valid.reshape(-1, n * t)], axis=1).reshape(-1, k, p + n * t)
    inside = jnp.cumsum(whole, axis=2, dtype=jnp.int32)
    first, load = jax.vmap(lambda tokens: _places(packing, tokens))(inside[:, :, -1])
    slot = first[:, :, None] + inside - 1
    blocks, size = len(whole), packing.rows * packing.length

    def inverse(slot: Array, whole: Array) -> Array:
        to = jnp.where(whole, slot, size).reshape(-1)  # what holds no token is dropped
        return jnp.full(size, -1, jnp.int32).at[to].set(jnp.arange(to.size, dtype=jnp.int32), mode="drop")

    source = jax.vmap(inverse)(slot, whole)
    prompt, place = jnp.divmod(jnp.maximum(source, 0), p + n * t)
    rows = lambda x: x.reshape(blocks * packing.rows, packing.length)  # noqa: E731
    return Packed(
        jnp.maximum(source, 0),
        rows(source >= 0),
        rows(prompt),
        rows(jnp.where(place < p, 0, 1 + (place - p) // t)),
        slot[:, :, p:].reshape(blocks, k * n * t),
        prompt * n * t + jnp.maximum(place - p, 0),
        # prompts end at their last slot, or, right-padded, at the last that counted
        slot[:, :, p - 1],
        jnp.all(load <= packing.length),
    )


def into_rows(packed: Packed, prompts: Array, completions: Array) -> Array:
    """Numbers per slot, of prompts [B,P] and completions [B,N,T], as packed rows [R,1,L]."""
    blocks = packed.source.shape[0]
    whole = jnp.concatenate([prompts, completions.reshape(completions.shape[0], -1)], axis=1).reshape(blocks, -1)
    return jnp.take_along_axis(whole, packed.source, axis=1).reshape(packed.filled.shape)[:, None]


def packed_mask(packed: Packed, positions: Array, window: int | None) -> Array:
    """Which packed slot sees which, [R,1,1,1,L,L], for positions [R,1,L]."""
    slots = jnp.arange(packed.filled.shape[1])
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

    own = (packed.filled & (packed.part > 0)).reshape(packed.back.shape)

    def flagged(x: Array) -> Array:
        return jnp.where(packed.fits, x, jnp.nan).reshape(*packed.source.shape, *x.shape[3:])

    def completions(x: Array) -> Array:
        found = _gathered(flagged(x), packed.slots, there, packed.back, own)
        return found.reshape(*valid.shape, *x.shape[3:])

    def last(x: Array) -> Array:
        return _at(flagged(x), packed.last, jnp.ones_like(packed.last, bool)).reshape(valid.shape[0], *x.shape[3:])

    return completions, last


@jax.custom_vjp
def _gathered(x: Array, slots: Array, there: Array, back: Array, own: Array) -> Array:
    """x [C,S,..] at slots [C,M], 0 where not there. A slot is asked for once at most, so the gradient is a gather too,
    by `back` [C,S] where `own`; the one jax derives is a scatter."""
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
