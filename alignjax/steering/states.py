"""States of a network on contrast sets: one vector of each layer for each text."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import as_float32
from alignjax.types import Array, Batch, Model, Params


def prompt_states(model: Model, params: Params, batch: Batch, *, site: str = "block") -> Array:
    """Reads the states at the last token of each prompt.

    Args:
        model: The network.
        params: Its params; what steers them is in effect.
        batch: Prompts [B,P].
        site: Where states are read: "attn", "block", or "heads".

    Returns:
        [B,L,D], of "heads" [B,L,H,h].

    Raises:
        ConfigError: The model has no such site, or no layers to read.
    """
    if model.extend is None:
        raise ConfigError("a model that cannot be extended has no states to read")
    prompt, valid = (batch.need(field, of="prompt_states")[:, None] for field in ("prompt", "prompt_valid"))
    states = model.extend(params, None, prompt, valid, params.get("edits"), (site,))[2][site][:, 0]
    last = prompt.shape[2] - 1 - jnp.argmax(jnp.flip(valid[:, 0], -1), axis=-1)
    return as_float32(states[jnp.arange(states.shape[0]), last])


def completion_states(
    model: Model, params: Params, batch: Batch, *, site: str = "block", at: Literal["mean", "last"] = "mean"
) -> Array:
    """Reads the states of completions: their mean over the tokens of each, or those at its last token.

    Args:
        model: The network.
        params: Its params; what steers them is in effect.
        batch: Completions [B,N,T] of prompts.
        site: Where states are read: "attn", "block", or "heads".
        at: "mean" or "last".

    Returns:
        [B,N,L,D], of "heads" [B,N,L,H,h]; 0 for a completion without tokens.
    """
    valid = batch.need("valid", of="completion_states")
    states = model.hidden(params, batch, (site,)).states[site]
    slots = jnp.broadcast_to(jnp.arange(valid.shape[-1]), valid.shape)
    if at == "last":
        valid = valid & (slots == jnp.max(jnp.where(valid, slots, -1), axis=-1, keepdims=True))
    share = valid / jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1)
    return jnp.einsum("bnt,bnt...->bn...", share, jnp.where(_like(valid, states), states, 0).astype(share.dtype))


def _like(valid: Array, states: Array) -> Array:
    return valid.reshape(*valid.shape, *[1] * (states.ndim - valid.ndim))
