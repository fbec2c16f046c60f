"""What is sampled from: streams of logits, the trunks that make them, and the draw of one token from all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, nearest
from alignjax.models.kv_cache import Cache, share, unrolled
from alignjax.numerics import take_token
from alignjax.sampling import filters
from alignjax.sampling.behaviors import History, as_float32, stream_names
from alignjax.sampling.decode_weights import decode_weights
from alignjax.types import Array, Batch, Context, Model, Params

__all__ = ["Filters", "Sampled", "Stream"]


@dataclasses.dataclass(frozen=True)
class Stream:
    """A source of logits: `role`'s `head` on the prompts of `view` ("" for the batch's own)."""

    name: str
    role: str
    head: str = "lm"
    view: str = ""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Filters:
    """Temperature, then top-k, top-p and min-p in that order, each on what the one before left; None switches one
    off."""

    temperature: float | Array = 1.0
    top_k: int | None = dataclasses.field(default=None, metadata={"static": True})
    top_p: float | Array | None = None
    min_p: float | Array | None = None

    def __call__(self, logits: Array) -> Array:
        logits = filters.temper(logits, self.temperature)
        if self.top_k is not None:
            logits = filters.top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = filters.top_p(logits, self.top_p)
        return logits if self.min_p is None else filters.min_p(logits, self.min_p)


class Sampled(NamedTuple):
    """tokens, valid [B,N,T]; logps: {stream: [B,N,T]} at temperature 1 and untruncated, and "sampler": what was sampled
    from. 0 after the end."""

    tokens: Array
    valid: Array
    logps: dict[str, Array]


class Trunk(NamedTuple):
    """One network at work on one set of prompts; several streams may read it through their heads."""

    model: Model
    params: Params

    def extend(self, cache: Cache | None, tokens: Array, valid: Array) -> tuple[Array, Cache]:
        """See `Model.extend`; steering edits are part of the params."""
        assert self.model.extend is not None
        states, longer, _ = self.model.extend(self.params, cache, tokens, valid, self.params.get("edits"))
        return states, longer


class Plan(NamedTuple):
    """All that says what is sampled, whichever way the completions are scheduled. Trunks by (role, view)."""

    streams: tuple[Stream, ...]
    trunks: Mapping[tuple[str, str], Trunk]
    behaviour: Fn
    filters: Filters
    stop: tuple[int, ...]


def default_streams(behaviour: Fn) -> tuple[Stream, ...]:
    """A stream for each role that the behaviour names."""
    return tuple(Stream(name, name) for name in stream_names(behaviour.kwargs))


def trunks_of(
    context: Context, batch: Batch, streams: tuple[Stream, ...], weights: str | None
) -> dict[tuple[str, str], Trunk]:
    """The trunks that the streams read, on `weights` (see `decode_weights`; None: their own).

    Raises ConfigError for a role or view that does not exist, or a role that cannot be sampled.
    """
    trunks = {}
    for stream in streams:
        if stream.role not in context.roles:
            raise ConfigError(
                f"stream {stream.name!r} samples from role {stream.role!r}, which does not exist."
                + nearest(stream.role, context.roles)
            )
        if stream.view and stream.view not in batch.views:
            raise ConfigError(f"stream {stream.name!r} reads view {stream.view!r}.{nearest(stream.view, batch.views)}")
        model = context.roles[stream.role].model
        if model is None or model.extend is None:
            raise ConfigError(f"role {stream.role!r} cannot be sampled from: its model has no `extend`")
        params = context.params(stream.role)
        if weights is not None:
            model, params = decode_weights(stream.role, model, params, weights)
        trunks[stream.role, stream.view] = Trunk(model, unrolled(params))
    return trunks


def prefill(trunk: Trunk, batch: Batch) -> tuple[Array, Cache]:
    """The state after each prompt [B,D], and the cache that all its completions share."""
    assert batch.prompt is not None
    assert batch.prompt_valid is not None
    states, cache = trunk.extend(None, batch.prompt[:, None], batch.prompt_valid[:, None])
    index = batch.prompt.shape[1] - 1 - jnp.argmax(jnp.flip(batch.prompt_valid, -1), axis=-1)
    return jnp.take_along_axis(states[:, 0], index[:, None, None], axis=1)[:, 0], share(cache)


def precision(plan: Plan, hidden: Mapping[Any, Array]) -> Any:
    """In which log-probs are kept: float32, or float64 where a stream's logits are."""
    logits = []
    for stream in plan.streams:
        trunk = plan.trunks[stream.role, stream.view]
        head = trunk.model.heads[stream.head]
        logits.append(jax.eval_shape(head.apply, trunk.params, hidden[stream.role, stream.view]).dtype)
    return jnp.result_type(jnp.float32, *logits)


def drawn(plan: Plan, hidden: Mapping[Any, Array], history: History, uniform: Array) -> tuple[Array, dict[str, Array]]:
    """The next token of every completion, and its log-prob by "sampler" and by each stream: hidden [..,D] of each
    trunk, uniform [..] -> [..]."""
    logits = {}
    for stream in plan.streams:
        trunk = plan.trunks[stream.role, stream.view]
        states = hidden[stream.role, stream.view]
        logits[stream.name] = as_float32(trunk.model.heads[stream.head].apply(trunk.params, states))
    token, sampler = filters.draw(plan.filters(plan.behaviour(logits, history)), uniform)
    scores = {name: take_token(value, token) - jax.nn.logsumexp(value, axis=-1) for name, value in logits.items()}
    return token, {"sampler": sampler} | scores


def ends(plan: Plan, token: Array) -> Array:
    """Whether a token is one after which nothing follows."""
    return jnp.isin(token, jnp.array(plan.stop, jnp.int32)) if plan.stop else jnp.zeros(token.shape, bool)
