"""Temperature and truncation of a next-token distribution, and the draw itself. logits [..,V] throughout."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.numerics import MASKED, take_token
from alignjax.types import Array


def temper(logits: Array, temperature: float | Array) -> Array:
    """Divides logits by the temperature. Temperature 0 means greedy: the maximum keeps all the probability.

    Args:
        logits: [..,V].
        temperature: A number, or an array that broadcasts.

    Returns:
        Logits [..,V].
    """
    return logits / jnp.maximum(temperature, 1e-6)


def top_k(logits: Array, k: int) -> Array:
    """Keeps the k most likely tokens, ties at the threshold included.

    Args:
        logits: [..,V].
        k: How many; V if it is larger.

    Returns:
        Logits [..,V], the others masked.
    """
    threshold = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits >= threshold, logits, MASKED)


def top_p(logits: Array, p: float | Array) -> Array:
    """Keeps the smallest set of most likely tokens whose probability reaches p (nucleus sampling, arXiv:1904.09751);
    the likeliest always stays.

    Args:
        logits: [..,V].
        p: A probability, or an array that broadcasts.

    Returns:
        Logits [..,V], the others masked.
    """
    ordered = -jnp.sort(-logits, axis=-1)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    last = jnp.sum(before < p, axis=-1, keepdims=True) - 1
    threshold = jnp.take_along_axis(ordered, jnp.maximum(last, 0), axis=-1)
    return jnp.where(logits >= threshold, logits, MASKED)


def min_p(logits: Array, p: float | Array) -> Array:
    """Keeps tokens at least p times as likely as the likeliest (arXiv:2407.01082).

    Args:
        logits: [..,V].
        p: A share, or an array that broadcasts.

    Returns:
        Logits [..,V], the others masked.
    """
    top = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.where(logits >= top + jnp.log(p), logits, MASKED)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Filters:
    """Temperature, then top-k, top-p and min-p in that order, each on what the one before left; None switches one
    off, and so does a top_k of -1."""

    temperature: float | Array = 1.0
    top_k: int | None = dataclasses.field(default=None, metadata={"static": True})
    top_p: float | Array | None = None
    min_p: float | Array | None = None

    def __call__(self, logits: Array) -> Array:
        logits = temper(logits, self.temperature)
        cuts: Any = ((top_k, None if self.top_k == -1 else self.top_k), (top_p, self.top_p), (min_p, self.min_p))
        for cut, value in cuts:
            if value is not None:
                logits = cut(logits, value)
        return logits


def draw(logits: Array, uniform: Array) -> tuple[Array, Array]:
    """Draws one token per row by inverting the distribution function.

    That takes one uniform number a row instead of V Gumbel variables, and two levels (a block, then a token in it)
    instead of a running sum over the vocabulary. A token of probability 0 is never drawn.

    Args:
        logits: Logits [..,V].
        uniform: Numbers in [0, 1) [..].

    Returns:
        Tokens [..] int32, and their log-probs [..] in nats.
    """
    vocab = logits.shape[-1]
    block = 1 << max(0, math.isqrt(vocab) - 1).bit_length()
    pad = -vocab % block
    top = jnp.max(logits, axis=-1, keepdims=True)
    weight = jnp.exp(logits - top)
    blocks = jnp.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, pad)]).reshape(*weight.shape[:-1], -1, block)
    sums = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
    target = uniform * sums[..., -1]
    number = _first_above(sums, target)  # of the block
    before = jnp.where(number > 0, take_token(sums, jnp.maximum(number - 1, 0)), 0)
    inside = jnp.take_along_axis(blocks, number[..., None, None], axis=-2)[..., 0, :]
    token = number * block + _first_above(jnp.cumsum(inside, axis=-1), target - before, inside > 0)
    logp = take_token(logits, token) - top[..., 0] - jnp.log(sums[..., -1])
    return token.astype(jnp.int32), logp


def likeliest(logits: Array, place: Array) -> tuple[Array, Array]:
    """Takes the token of a place among the likeliest, 0 for the first.

    Args:
        logits: Logits [..,N,V].
        place: A place for each of the N rows, from 0 to N - 1, of a shape that broadcasts to [..,N].

    Returns:
        Tokens [..,N] int32, and their log-probs [..,N] in nats: MASKED, with some token, behind the last place.
    """
    rows, vocab = logits.shape[-2:]
    order = jax.lax.top_k(logits, min(rows, vocab))[1]
    place = jnp.broadcast_to(place, logits.shape[:-1])
    token = take_token(order, jnp.minimum(place, vocab - 1))
    logp = take_token(logits, token) - jax.nn.logsumexp(logits, axis=-1)
    return token, jnp.where(place < vocab, logp, MASKED)


def _first_above(running: Array, target: Array, possible: Array | None = None) -> Array:
    """First index whose running sum exceeds target; where rounding leaves none, the last index that adds anything (the
    last `possible`)."""
    above = running > target[..., None]
    if possible is None:
        possible = jnp.diff(running, axis=-1, prepend=0) > 0
    last = running.shape[-1] - 1 - jnp.argmax(jnp.flip(possible, -1), axis=-1)
    return jnp.where(jnp.any(above & possible, -1), jnp.argmax(above & possible, axis=-1), last)
