"""Stages around a sampler that goes on from a text which is not its own: the text stands in the prompt while it
samples, and in front of the completion, where nothing is learned from it, after that.

    {"prefix": fn(flawed_prefix, write=..., length=5), "generate": ..., "whole": fn(with_prefix), "reward": ...}
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import Fn
from alignjax.numerics import row_keys
from alignjax.ranges import Count, Fraction
from alignjax.types import SAMPLER, Array, Batch, Context, Key


def flawed_prefix(
    context: Context, batch: Batch, key: Key, *, write: Fn, length: Count, share: Fraction = 0.5
) -> Batch:
    """Puts the beginning of a wrong answer behind a share of the prompts, for the policy to recover from (RECAP,
    arXiv:2510.00938 section 3.1).

    The paper's prefixes are reasoning of another model that goes the wrong way; here a function writes them.

    Args:
        context: Not used.
        batch: Prompts [B,P] without completions.
        key: Random key; what is drawn is a function of it and the prompt's example_id.
        write: write(prompt [P], key) -> tokens [length].
        length: Tokens of a prefix.
        share: Probability that a prompt gets one.

    Returns:
        The batch with prompts [B,P+length], and prompts["prefix"], ["prefix_valid"], ["before"], ["before_valid"],
        which `with_prefix` reads.
    """
    prompt, valid = batch.need("prompt", of="flawed_prefix"), batch.need("prompt_valid", of="flawed_prefix")
    keys = row_keys(key, batch.ids(), 2)
    prefix = jax.vmap(write)(prompt, keys[:, 0]).astype(prompt.dtype)
    has = jax.vmap(lambda row: jax.random.bernoulli(row, share))(keys[:, 1])
    present = jnp.broadcast_to(has[:, None], (len(prompt), length))
    joined, joined_valid = _packed(jnp.concatenate([prompt, prefix], 1), jnp.concatenate([valid, present], 1), True)
    kept = {"prefix": prefix, "prefix_valid": present, "before": prompt, "before_valid": valid}
    return batch.replace(prompt=joined, prompt_valid=joined_valid, prompts={**batch.prompts, **kept})


def with_prefix(context: Context, batch: Batch, key: Key) -> Batch:
    """Moves prefixes from the prompts to the front of the completions, with mask 0: rewards then read whole answers,
    and only the continuation is learned from (RECAP, arXiv:2510.00938 section 3.1: they are in no ratio and no length).

    Args:
        context: Not used.
        batch: Completions [B,N,T] sampled behind `flawed_prefix`.
        key: Not used.

    Returns:
        The batch as without prefixes but for completions [B,N,length+T]; of log-probs only the sampler's are kept, 0 on
        prefixes.

    Raises:
        ConfigError: If there are no completions, or no prefixes.
    """
    tokens, valid = batch.need("tokens", of="with_prefix"), batch.need("valid", of="with_prefix")
    prefix, present = (batch.need("prompts", name, of="with_prefix")[:, None] for name in ("prefix", "prefix_valid"))
    shape = (*tokens.shape[:2], prefix.shape[-1])
    prefix, present = jnp.broadcast_to(prefix, shape), jnp.broadcast_to(present, shape)
    whole = jnp.concatenate([present, valid], -1)

    def behind(values: Array) -> Array:
        return _packed(jnp.concatenate([jnp.zeros(shape, values.dtype), values], -1), whole, False)[0]

    mask = valid.astype(jnp.float32) if batch.mask is None else batch.mask
    joined, joined_valid = _packed(jnp.concatenate([prefix.astype(tokens.dtype), tokens], -1), whole, False)
    kept = {name: leaf for name, leaf in batch.prompts.items() if name not in ("before", "before_valid")}
    return batch.replace(
        prompt=batch.prompts["before"], prompt_valid=batch.prompts["before_valid"], prompts=kept, tokens=joined,
        valid=joined_valid, mask=behind(mask),
        logps={SAMPLER: behind(batch.logps[SAMPLER])} if SAMPLER in batch.logps else {},
    )  # fmt: skip


def _packed(values: Array, valid: Array, right: bool) -> tuple[Array, Array]:
    """Values [..,L] whose valid ones stand together, at the right end or at the left, and which are valid."""
    order = jnp.argsort(valid if right else ~valid, axis=-1, stable=True)
    return jnp.take_along_axis(values, order, -1), jnp.take_along_axis(valid, order, -1)
