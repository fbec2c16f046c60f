"""Stages that make completions and score them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from alignjax.config import Fn, fn
from alignjax.parallel.mesh import COMPUTE_LAYOUT, DECODE_LAYOUT, constrain, replicate, shard_rows
from alignjax.sampling import decode
from alignjax.sampling.behaviors import own
from alignjax.sampling.logit_streams import Filters, Sampled, Stream, default_streams
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics, Params

__all__ = ["generate", "logprobs", "values"]


def generate(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    n: int,
    max_tokens: int,
    behaviour: Fn = fn(own),
    streams: tuple[Stream, ...] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop: tuple[int, ...] = (2,),
    slots: int | None = None,
    weights: str | None = None,
    tensor_parallel: bool = False,
) -> tuple[Batch, Metrics]:
    """Samples n completions per prompt and appends them to those the batch has (a second `generate` adds opponents).

    behaviour: how streams combine (`own`, `mixture`); streams: what they read, by default the roles the behaviour
    names; temperature 0 is greedy; slots: how many completions are extended at a time, the place of one that has
    stopped going to the next (None: all, until the last has stopped; the same samples, up to rounding). Fills tokens,
    valid, mask and logps: every stream's at temperature 1, and "sampler".

    weights: "bfloat16" or "int8" to sample with weights that are cast once per call and read faster. The streams'
    log-probs are then computed anew by the scorer with the weights that are trained, and the metric sampler_gap/STREAM
    says how far the sampler's were from them, in nats per token. "sampler" stays what was sampled from: what an
    importance weight divides by.

    On a mesh all weights are gathered once per call and every device samples rows of its own; with tensor_parallel they
    stay split over the tensor axis, for models that a device cannot hold.

    Where the batch had completions already, only logps known for both parts are kept.
    """
    filters = Filters(temperature, top_k, top_p, min_p)
    new = decode.generate(
        dataclasses.replace(context, params=functools.partial(_gathered, context, tensor_parallel)),
        batch if tensor_parallel else shard_rows(batch, table=DECODE_LAYOUT),
        key,
        n=n,
        max_tokens=max_tokens,
        behaviour=behaviour,
        streams=streams,
        filters=filters,
        stop=stop,
        slots=slots,
        weights=weights,
    )
    new = shard_rows(new, batch)
    metrics: Metrics = {
        "length": Mean.of(jnp.sum(new.valid, axis=-1).astype(jnp.float32)),
        "finished": Mean.of(jnp.any(jnp.isin(new.tokens, jnp.array(stop)) & new.valid, axis=-1) * 1.0),
    }
    if weights is not None:
        new, gaps = _rescored(context, batch, new, default_streams(behaviour) if streams is None else streams)
        metrics |= gaps
    mask = new.valid.astype(jnp.float32)
    if batch.tokens is None:
        return batch.replace(tokens=new.tokens, valid=new.valid, mask=mask, logps=new.logps), metrics
    return _appended(batch, new.tokens, new.valid, mask, new.logps), metrics


def _gathered(context: Context, tensor_parallel: bool, role: str) -> Params:
    """A role's params as its sampler uses them."""
    model, params = context.roles[role].model, context.params(role)
    return constrain(params, model and model.axes, COMPUTE_LAYOUT) if tensor_parallel else replicate(params)


def _rescored(context: Context, batch: Batch, new: Sampled, streams: tuple[Stream, ...]) -> tuple[Sampled, Metrics]:
    """The samples with their streams' log-probs by the scorer, and how far those were from the sampler's."""
    exact, gaps = {}, {}
    for stream in streams:
        prompts = batch.views[stream.view] if stream.view else batch
        seen = Batch(prompt=prompts.prompt, prompt_valid=prompts.prompt_valid, tokens=new.tokens, valid=new.valid)
        output = stream.role if stream.head == "lm" else f"{stream.role}:{stream.head}"
        exact[stream.name] = context.score(output, seen)[output]
        gap = jnp.abs(exact[stream.name] - new.logps[stream.name])
        gaps[f"sampler_gap/{stream.name}"] = Mean.of(gap, new.valid)
    return new._replace(logps=new.logps | exact), gaps


def _appended(batch: Batch, tokens: Array, valid: Array, mask: Array, logps: dict[str, Array]) -> Batch:
    assert batch.tokens is not None
    assert batch.valid is not None
    length = max(batch.tokens.shape[2], tokens.shape[2])

    def joined(old: Any, new: Any) -> Array:
        parts = [jnp.pad(part, [(0, 0), (0, 0), (0, length - part.shape[2])]) for part in (old, new)]
        return jnp.concatenate([parts[0], parts[1].astype(parts[0].dtype)], axis=1)

    old_mask = batch.mask if batch.mask is not None else batch.valid.astype(jnp.float32)
    both = [name for name in batch.logps if name in logps]
    return Batch(
        prompt=batch.prompt,
        prompt_valid=batch.prompt_valid,
        tokens=joined(batch.tokens, tokens),
        valid=joined(batch.valid, valid),
        mask=joined(old_mask, mask),
        logps={name: joined(batch.logps[name], logps[name]) for name in both},
        example_id=batch.example_id,
        prompts=batch.prompts,
        views=batch.views,
    )


def logprobs(context: Context, batch: Batch, key: Key, *, role: str = "reference") -> Batch:
    """Fills logps[role] [B,N,T]: the role's log-probs of the completions in nats, temperature 1, untruncated."""
    (logps,) = context.score(role, batch).values()
    return batch.with_logps(**{role: logps})


def values(context: Context, batch: Batch, key: Key, *, output: str = "critic:value") -> Batch:
    """Fills completions["values"] [B,N,T]: a value head's number before each token."""
    (numbers,) = context.score(output, batch).values()
    return batch.replace(completions={**batch.completions, "values": numbers})
