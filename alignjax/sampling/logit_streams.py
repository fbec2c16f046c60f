"""Streams of logits: what a sampling asks for, the backbones that make them, and the draw of one token from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, check_known, fn
from alignjax.models.kv_cache import Cache, share, unrolled
from alignjax.numerics import as_float32, take_token
from alignjax.sampling.behaviors import History, own, stream_names
from alignjax.sampling.decode_weights import decode_weights
from alignjax.sampling.filters import Filters, draw, likeliest
from alignjax.types import EXPERTS, SAMPLER, Array, Batch, Context, Model, Params

Name = tuple[str, str]  # of a backbone at work: (role, view)


@dataclasses.dataclass(frozen=True)
class Stream:
    """A source of logits: `role`'s `head` on the prompts of `view` ("" for the batch's own)."""

    name: str
    role: str
    head: str = "lm"
    view: str = ""


def _static(default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Everything that says what is sampled and how.

    Attributes:
        n: Completions per prompt.
        max_tokens: Longest completion, in tokens.
        behaviour: How streams combine.
        streams: What the behavior reads; None: the roles that it names.
        filters: Temperature and truncation.
        stop: Tokens that end a completion.
        slots: How many completions are extended at a time; a slot that has ended takes the next one (`refill`). None:
            all together, until the last has stopped.
        weights: "bfloat16" or "int8" for weights that are read faster (`decode_weights`); all log-probs are then by
            those weights. None: the roles' own.
        keep_experts: The experts that tokens went to are kept, of every stream whose model has some.
    """

    n: int = _static()
    max_tokens: int = _static()
    behaviour: Fn = dataclasses.field(default_factory=lambda: fn(own))
    streams: tuple[Stream, ...] | None = _static(None)
    filters: Filters = dataclasses.field(default_factory=Filters)
    _: dataclasses.KW_ONLY
    stop: tuple[int, ...] = _static()
    slots: int | None = _static(None)
    weights: str | None = _static(None)
    keep_experts: bool = _static(False)

    def all_streams(self) -> tuple[Stream, ...]:
        """Returns the streams that are read."""
        return default_streams(self.behaviour) if self.streams is None else self.streams


class Sampled(NamedTuple):
    """tokens, valid [B,N,T]; logps: {stream: [B,N,T]} at temperature 1 and untruncated, and "sampler": what was sampled
    from. 0 after the end. experts: {role: (of prompts [B,P,L,k], of completions [B,N,T,L,k])} where they were kept, -1
    where there is no token."""

    tokens: Array
    valid: Array
    logps: dict[str, Array]
    experts: Mapping[str, tuple[Array, Array]] | None = None


class Backbone(NamedTuple):
    """One network at work on one set of prompts; several streams may read it through their heads. kept: the sites whose
    states are kept of every token, "experts" or none."""

    model: Model
    params: Params
    kept: tuple[str, ...] = ()

    def extend(self, cache: Cache | None, tokens: Array, valid: Array) -> tuple[Array, Cache, Mapping[str, Array]]:
        """Runs `Model.extend`; steering edits are part of the params."""
        assert self.model.extend is not None
        sites = (self.kept,) if self.kept else ()
        states, longer, sited = self.model.extend(self.params, cache, tokens, valid, self.params.get("edits"), *sites)
        there = {site: jnp.where(valid[..., None, None], experts, -1) for site, experts in sited.items()}
        return states, longer, there


class Plan(NamedTuple):
    """A sampling with its streams and the backbones that they read."""

    sampling: Sampling
    streams: tuple[Stream, ...]
    backbones: Mapping[Name, Backbone]

    def logp_names(self) -> tuple[str, ...]:
        """Returns the names under which log-probs are given."""
        return ("sampler", *(stream.name for stream in self.streams))

    def logits(self, stream: Stream, hidden: Mapping[Name, Array]) -> Array:
        """Returns the logits [..,V] of a stream from the states [..,D] of each backbone."""
        backbone = self.backbones[stream.role, stream.view]
        return backbone.model.heads[stream.head].apply(backbone.params, hidden[stream.role, stream.view])

    def precision(self, hidden: Mapping[Name, Array]) -> Any:
        """Returns the dtype in which log-probs are kept: float32, or float64 where a stream's logits are."""
        shapes = jax.eval_shape(lambda hidden: [self.logits(stream, hidden) for stream in self.streams], hidden)
        return jnp.result_type(jnp.float32, *(logits.dtype for logits in shapes))

    def no_experts(self, shape: tuple[int, ...]) -> dict[Name, Array]:
        """Makes for each backbone that keeps experts room for those of so many tokens: -1, [*shape,L,k]."""
        configs = {name: backbone.model.config for name, backbone in self.backbones.items() if backbone.kept}
        return {name: jnp.full((*shape, c.layers, c.experts_per_token), -1, jnp.int32) for name, c in configs.items()}

    def draw(
        self, hidden: Mapping[Name, Array], history: History, uniform: Array, place: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Draws the next token of every completion.

        Args:
            hidden: States [..,D] of each backbone.
            history: What the behavior may look at.
            uniform: A number in [0, 1) per completion [B,N].
            place: Which of the likeliest tokens each completion [1,N] takes, from 0 to N - 1; None: one is drawn.

        Returns:
            Tokens [B,N], and their log-probs [B,N] by "sampler" and by each stream.
        """
        logits = {stream.name: as_float32(self.logits(stream, hidden)) for stream in self.streams}
        filtered = self.sampling.filters(self.sampling.behaviour(logits, history))
        token, sampler = draw(filtered, uniform) if place is None else likeliest(filtered, place)
        scores = {name: take_token(value, token) - jax.nn.logsumexp(value, axis=-1) for name, value in logits.items()}
        return token, {"sampler": sampler} | scores

    def ends(self, token: Array) -> Array:
        """Marks the tokens after which nothing follows: bools in the shape of `token`."""
        return jnp.isin(token, jnp.array(self.sampling.stop, jnp.int32))


def with_experts(new: Sampled, prompts: Mapping[Name, Mapping[str, Array]], kept: Mapping[Name, Array]) -> Sampled:
    """Returns samples with the experts of each role that were kept.

    Args:
        new: The samples.
        prompts: Of each backbone what `prefill` kept.
        kept: Of each backbone that has experts, those of completions [B,N,T,L,k].

    Returns:
        The samples.
    """
    experts = {name[0]: (prompts[name][EXPERTS], after) for name, after in kept.items()}
    return new._replace(experts=experts or None)


def known_stop(stop: tuple[int, ...] | None, *, of: str) -> tuple[int, ...]:
    """Returns the tokens that end a completion. Raises ConfigError, which names who asks, if nobody has said them."""
    if stop is None:
        raise ConfigError(
            f"{of}(stop=None): no data set says which tokens end a completion; name them, or stop=() for none"
        )
    return stop


def default_streams(behaviour: Fn) -> tuple[Stream, ...]:
    """Returns a stream for each role that the behavior names."""
    return tuple(Stream(name, name) for name in stream_names(behaviour.kwargs))


def plan_of(context: Context, batch: Batch, sampling: Sampling) -> Plan:
    """Collects the backbones that a sampling's streams read.

    Args:
        context: Roles and their params.
        batch: Has the views that streams read.
        sampling: What is sampled.

    Returns:
        The plan, its backbones on `sampling.weights`.

    Raises:
        ConfigError: For a role or view that does not exist, a role that cannot be sampled, or a stream called
            "sampler".
    """
    # Streams that read the same role and view share one backbone, keyed by both, so a mixture of two heads decodes
    # once. All names are checked here, before anything is traced.
    backbones, streams = {}, sampling.all_streams()
    for stream in streams:
        if stream.name == SAMPLER:
            raise ConfigError(
                f"a stream cannot be called {SAMPLER!r}: that is the name of what all streams together give"
            )
        who = f"stream {stream.name!r}"
        check_known(stream.role, context.roles, f"{who} samples from role {stream.role!r}, which does not exist")
        if stream.view:
            check_known(stream.view, batch.views, f"{who} reads view {stream.view!r}")
        model = context.roles[stream.role].model
        if model is None or model.extend is None:
            raise ConfigError(f"role {stream.role!r} cannot be sampled from: its model has no `extend`")
        params = context.params(stream.role)
        if sampling.weights is not None:
            model, params = decode_weights(stream.role, model, params, sampling.weights)
        kept = (EXPERTS,) if sampling.keep_experts and getattr(model.config, "experts", 0) else ()
        if kept and stream.view:
            raise ConfigError(
                f"{who} reads view {stream.view!r}; keep_experts is for streams on the batch's own prompts"
            )
        backbones[stream.role, stream.view] = Backbone(model, unrolled(params), kept)
        if sampling.slots is not None and any(edit.ndim > 3 for edit in (params.get("edits") or {}).values()):
            raise ConfigError(f"{who} is steered prompt by prompt (gated), which slots cannot; leave slots out")
    if sampling.keep_experts and not any(backbone.kept for backbone in backbones.values()):
        raise ConfigError("generate(keep_experts=True): no stream's model has experts; leave it out")
    return Plan(sampling, streams, backbones)


def prefill(backbone: Backbone, batch: Batch) -> tuple[Array, Cache, Mapping[str, Array]]:
    """Returns the state after each prompt [B,D], the cache that all its completions share, and what is kept.

    Args:
        backbone: What reads the prompts.
        batch: Prompts [B,P] with prompt_valid.

    Returns:
        (state [B,D], cache, {"experts": [B,P,L,k]} if they are kept).
    """
    prompt, valid = batch.need("prompt", of="generate"), batch.need("prompt_valid", of="generate")
    states, cache, sited = backbone.extend(None, prompt[:, None], valid[:, None])
    index = prompt.shape[1] - 1 - jnp.argmax(jnp.flip(valid, -1), axis=-1)
    last = jnp.take_along_axis(states[:, 0], index[:, None, None], axis=1)[:, 0]
    return last, share(cache), {site: experts[:, 0] for site, experts in sited.items()}
