"""Rows without padding: the tokens of several prompts and their completions laid end to end for one run of a backbone.

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
from alignjax.ranges import Count, Fraction
from alignjax.types import Array, Batch


class Packed(NamedTuple):
    """A layout of packed rows [R,L]: where their slots come from, and where slots of completions and last tokens
    of prompts lie in them. There are C blocks of k prompts, each block in r rows, so that R is C r."""

    source: Array  # [C,r*L] which of the block's k (P + N*T) padded slots is in a packed one
    filled: Array  # [R,L] whether any is
    prompt: Array  # [R,L] which of the block's k prompts it belongs to
    part: Array  # [R,L] 0 in a prompt, 1 + n in completion n
    slots: Array  # [C,k*N*T] where a completion's slot went; anything where it holds no token
    back: Array  # [C,r*L] which of the k*N*T a packed slot holds; anything where it holds none of them
    last: Array  # [C,k] where the last token of each prompt went
    fits: Array  # whether no token was left out


def _loads(packing: Packing, tokens: np.ndarray) -> np.ndarray:
    """The tokens in each row, [C,rows], of blocks of prompts with so many tokens, [C,k]: `_places` on the host."""
    load = np.zeros((len(tokens), packing.rows), np.int64)
    block = np.arange(len(tokens))
    for item in np.argsort(-tokens, axis=1, kind="stable").T:
        load[block, np.argmin(load, axis=1)] += tokens[block, item]
    return load


def _places(packing: Packing, tokens: Array) -> tuple[Array, Array]:
    """Lays out a block of prompts: the longest first, each into the row that is emptiest -> (the first slot of each
    prompt [k], tokens in each row [rows])."""
    order = jnp.argsort(-tokens, stable=True)

    def put(load: Array, item: Array) -> tuple[Array, Array]:
        row = jnp.argmin(load)
        return load.at[row].add(tokens[item]), row * packing.length + load[row]

    load, first = jax.lax.scan(put, jnp.zeros(packing.rows, tokens.dtype), order)
    return jnp.zeros_like(tokens).at[order].set(first), load


def packs(packing: Packing, prompt_valid: np.ndarray, valid: np.ndarray, microbatches: int = 1) -> bool:
    """Tells on the host, where it decides which of two programs runs, whether packed rows hold all tokens of a batch.

    Args:
        packing: How prompts are packed.
        prompt_valid: [B,P] bool.
        valid: [B,N,T] bool.
        microbatches: The runs of rows that are packed apart.

    Returns:
        Whether they do; True for a batch that does not split, of which `check` says more.
    """
    if len(valid) % (packing.prompts * microbatches):
        return True
    tokens = prompt_valid.sum(axis=1) + valid.sum(axis=(1, 2))
    # microbatch m is made of rows m, m + microbatches, ...
    pieces = tokens.reshape(-1, microbatches).T.reshape(-1, packing.prompts)
    return bool(_loads(packing, pieces).max() <= packing.length)


def packing_for(
    tokens: np.ndarray, prompts: int, rows: int = 1, *, padded: Fraction = 0.02, multiple: Count = 16
) -> Packing:
    """Makes rows just long enough that few batches are scored with their padding.

    Args:
        tokens: [batches,B], those of each prompt with all its completions, as a source gives them: the histogram of the
            data.
        prompts: How many prompts a block has.
        rows: How many rows a block has.
        padded: The share of batches that may not fit.
        multiple: What the length is to be a multiple of.

    Returns:
        The packing.
    """
    longest = _loads(Packing(prompts, 1, rows), tokens.reshape(-1, prompts)).max(axis=1).reshape(len(tokens), -1)
    enough = float(np.quantile(longest.max(axis=1), 1 - padded, method="higher"))
    return Packing(prompts, multiple * int(np.ceil(enough / multiple)), rows)


def check(packing: Packing, batch: Batch) -> None:
    """Checks that a batch splits into blocks of prompts.

    Args:
        packing: How many prompts share a block.
        batch: Completions [B,N,T].

    Raises:
        ConfigError: The batch has no multiple of `packing.prompts` prompts.
    """
    rows = batch.need("tokens", of="packing").shape[0]
    if rows % packing.prompts:
        raise ConfigError(
            f"packing: {rows} prompts (of a microbatch) do not split into rows of {packing.prompts}; make the one a "
            "multiple of the other"
        )


def pays(packing: Packing, batch: Batch) -> bool:
    """Tells whether packed rows are shorter than padded ones: not for the small shapes of bucketed batches.

    Args:
        packing: Rows and length of a block.
        batch: Prompts [B,P] and completions [B,N,T].

    Returns:
        True if a block has fewer slots than its padded prompts.
    """
    _, n, t = batch.need("tokens", of="packing").shape
    slots = batch.need("prompt", of="packing").shape[1] + n * t
    return packing.rows * packing.length < packing.prompts * slots


def pack(packing: Packing, prompt_valid: Array, valid: Array) -> Packed:
    """Lays out a batch in packed rows.

    Args:
        packing: How prompts are packed.
        prompt_valid: [B,P] bool.
        valid: [B,N,T] bool.

    Returns:
        The layout of the rows.
    """
    # Every prompt with its completions is a run of P + N*T padded slots. `slot` says where the token of each goes (the
    # first slot of its prompt, and the tokens in front of it); `source` is its inverse, by a scatter that drops
    # padding. Who a packed slot belongs to follows from the number of the padded one.
    (_, p), (_, n, t), k = prompt_valid.shape, valid.shape, packing.prompts
    padded = jnp.concatenate([prompt_valid, valid.reshape(-1, n * t)], axis=1).reshape(-1, k, p + n * t)
    inside = jnp.cumsum(padded, axis=2, dtype=jnp.int32)
    first, load = jax.vmap(lambda tokens: _places(packing, tokens))(inside[:, :, -1])
    slot = first[:, :, None] + inside - 1
    blocks, size = len(padded), packing.rows * packing.length

    def inverse(slot: Array, padded: Array) -> Array:
        to = jnp.where(padded, slot, size).reshape(-1)  # what holds no token is dropped
        return jnp.full(size, -1, jnp.int32).at[to].set(jnp.arange(to.size, dtype=jnp.int32), mode="drop")

    source = jax.vmap(inverse)(slot, padded)
    prompt, offset = jnp.divmod(jnp.maximum(source, 0), p + n * t)
    rows = lambda x: x.reshape(blocks * packing.rows, packing.length)  # noqa: E731
    return Packed(
        jnp.maximum(source, 0),
        rows(source >= 0),
        rows(prompt),
        rows(jnp.where(offset < p, 0, 1 + (offset - p) // t)),
        slot[:, :, p:].reshape(blocks, k * n * t),
        prompt * n * t + jnp.maximum(offset - p, 0),
        # prompts end at their last slot, or, right-padded, at the last that counted
        slot[:, :, p - 1],
        jnp.all(load <= packing.length),
    )


def into_rows(packed: Packed, prompts: Array, completions: Array) -> Array:
    """Packs numbers of slots, of prompts [B,P,..] and of completions [B,N,T,..], into rows [R,1,L,..].

    Args:
        packed: Says which slot comes from where.
        prompts: Numbers [B,P,..].
        completions: Numbers [B,N,T,..].

    Returns:
        The packed numbers [R,1,L,..].
    """
    blocks, more = packed.source.shape[0], prompts.shape[2:]
    flat = completions.reshape(completions.shape[0], -1, *more)
    padded = jnp.concatenate([prompts, flat], axis=1).reshape(blocks, -1, *more)
    source = packed.source.reshape(*packed.source.shape, *[1] * len(more))
    return jnp.take_along_axis(padded, source, axis=1).reshape(*packed.filled.shape, *more)[:, None]


def packed_mask(packed: Packed, positions: Array, window: int | None) -> Array:
    """Makes the mask of packed rows.

    Args:
        packed: The layout of the rows [R,L].
        positions: Of their tokens, [R,1,L].
        window: How many latest positions a token sees; None for all.

    Returns:
        The slots that each slot sees, [R,1,1,1,L,L] bool.
    """
    slots = jnp.arange(packed.filled.shape[1])[None]
    same_part = packed.part[:, None, :] == packed.part[:, :, None]
    see = packed.filled[:, None] & (slots[:, None] <= slots[..., None]) & (same_part | (packed.part[:, None] == 0))
    see &= packed.prompt[:, None, :] == packed.prompt[:, :, None]
    if window is not None:
        see &= positions[:, 0, :, None] - positions[:, 0, None, :] < window
    return see[:, None, None, None]


def from_rows(packed: Packed, valid: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Makes what takes states out of packed rows again.

    Args:
        packed: The layout of the rows.
        valid: Of the completions, [B,N,T] bool.

    Returns:
        Two functions of states [R,1,L,..]: one gives those of the completions [B,N,T,..], 0 where there is no token,
        the other those of each prompt's last token [B,..]. All is NaN if the rows do not hold every token: none is ever
        left out unseen.
    """
    present = valid.reshape(packed.slots.shape)
    in_completion = (packed.filled & (packed.part > 0)).reshape(packed.back.shape)

    def flagged(x: Array) -> Array:
        return jnp.where(packed.fits, x, jnp.nan).reshape(*packed.source.shape, *x.shape[3:])

    def completions(x: Array) -> Array:
        states = _gathered(flagged(x), packed.slots, present, packed.back, in_completion)
        return states.reshape(*valid.shape, *x.shape[3:])

    def last(x: Array) -> Array:
        return _at(flagged(x), packed.last, jnp.ones_like(packed.last, bool)).reshape(valid.shape[0], *x.shape[3:])

    return completions, last


@jax.custom_vjp
def _gathered(x: Array, slots: Array, present: Array, back: Array, in_completion: Array) -> Array:
    """x [C,S,..] at slots [C,M], 0 where none is present. A slot is read once at most, so the gradient is a gather too,
    by `back` [C,S] where a slot is `in_completion`; the one jax derives is a scatter."""
    return _at(x, slots, present)


def _at(x: Array, index: Array, present: Array) -> Array:
    ones = [1] * (x.ndim - 2)
    states = jnp.take_along_axis(x, index.reshape(*index.shape, *ones), axis=1, mode="clip")
    return jnp.where(present.reshape(*present.shape, *ones), states, 0)


def _gathered_forward(
    x: Array, slots: Array, present: Array, back: Array, in_completion: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _at(x, slots, present), (back, in_completion)


def _gathered_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, None, None, None, None]:
    return _at(g, *saved), None, None, None, None


_gathered.defvjp(_gathered_forward, _gathered_backward)
