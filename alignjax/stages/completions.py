"""Stages that make completions and score them: samples, log-probs, values, rewards."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp

from alignjax.config import Fn, check_known, fn
from alignjax.numerics import first_valid, last_valid, masked_sum
from alignjax.parallel.mesh import COMPUTE_LAYOUT, DECODE_LAYOUT, constrain, replicate, shard_rows
from alignjax.ranges import Count, Fraction, Natural, NonNegative, Share, TopK, Within
from alignjax.sampling import decode
from alignjax.sampling.behaviors import own
from alignjax.sampling.filters import Filters
from alignjax.sampling.logit_streams import Sampled, Sampling, Stream, known_stop
from alignjax.types import EXPERTS, Array, Batch, Context, Key, Mean, Metrics, Params


def generate(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    n: Count,
    max_tokens: Count,
    behaviour: Fn = fn(own),
    streams: tuple[Stream, ...] | None = None,
    temperature: NonNegative = 1.0,
    top_k: TopK = None,
    top_p: Share | None = None,
    min_p: Fraction | None = None,
    stop: tuple[Natural, ...] | None = None,
    slots: Count | None = None,
    weights: str | None = None,
    tensor_parallel: bool = False,
    keep_experts: bool = False,
    search: decode.Rejection | decode.Blocks | None = None,
) -> tuple[Batch, Metrics]:
    """Samples n completions per prompt and appends them to those the batch has (a second `generate` adds opponents).

    Where the batch had completions already, only the log-probs known for both parts are kept. On a mesh all weights are
    gathered once per call and every device samples rows of its own.

    Args:
        context: Roles and their params.
        batch: Prompts, with or without completions.
        key: Random key; what is drawn is a function of it, the prompt's example_id and the completion's number.
        n: Completions per prompt.
        max_tokens: Longest completion, in tokens, the stop token included.
        behaviour: How streams combine (`own`, `mixture`).
        streams: What the behavior reads; None: the roles that it names.
        temperature: Divides the logits; 0 is greedy.
        top_k: Keeps the k likeliest tokens; None or -1: all.
        top_p: Keeps the smallest set of this probability; None: all.
        min_p: Keeps tokens at least this many times as likely as the likeliest; None: all.
        stop: Tokens that end a completion. They are sampled, scored and valid. None: those of the data's tokenizer.
        slots: Decode batch size for continuous batching, where finished slots are refilled; None: all in lockstep.
        weights: "bfloat16" or "int8" samples with weights that are cast once per call and read faster. The streams'
            log-probs are then the scorer's; "sampler", what an importance weight divides by, stays what was sampled.
        tensor_parallel: Leaves weights split over the tensor axis, for models that a device cannot hold.
        keep_experts: Keeps who tokens went to as "experts:ROLE" in prompts and completions; ROLE is scored with it.
        search: Which completions are given up on the way; `speculative_rejection` and `block_search` say.

    Returns:
        The batch with tokens, valid, mask and logps [B,N,T]: every stream's at temperature 1, and "sampler". Metrics:
        `length` (tokens), `finished` (share that stopped) and, with `weights`, sampler_gap/STREAM, how far the
        sampler's log-probs were from the scorer's, in nats per token.
    """
    # The sampler has a layout of its own on a mesh, so the context that it is given lays out params on the way.
    stop, filters = known_stop(stop, of="generate"), Filters(temperature, top_k, top_p, min_p)
    more = {"stop": stop, "slots": slots, "weights": weights, "keep_experts": keep_experts}
    sampling = Sampling(n, max_tokens, behaviour, streams, filters, **more)
    laid_out = dataclasses.replace(context, params=functools.partial(_decode_params, context, tensor_parallel))
    rows = batch if tensor_parallel else shard_rows(batch, table=DECODE_LAYOUT)
    new = shard_rows(decode.generate(laid_out, rows, key, sampling, search), batch)
    new, gaps = (new, {}) if weights is None else _rescored(context, batch, new, sampling.all_streams())
    return _appended(batch, new), _length_metrics(new, stop) | gaps


def _length_metrics(new: Sampled, stop: tuple[int, ...]) -> Metrics:
    """Measures how long completions are and how many of them stopped."""
    return {
        "length": Mean.of(jnp.sum(new.valid, axis=-1).astype(jnp.float32)),
        "finished": Mean.of(jnp.any(jnp.isin(new.tokens, jnp.array(stop)) & new.valid, axis=-1) * 1.0),
    }


def _decode_params(context: Context, tensor_parallel: bool, role: str) -> Params:
    model, params = context.roles[role].model, context.params(role)
    return constrain(params, model and model.axes, COMPUTE_LAYOUT) if tensor_parallel else replicate(params)


def _rescored(context: Context, batch: Batch, new: Sampled, streams: tuple[Stream, ...]) -> tuple[Sampled, Metrics]:
    """Replaces the streams' log-probs by the scorer's, and measures how far the sampler's were from them."""
    exact, gaps = {}, {}
    for stream in streams:
        prompts = batch.views[stream.view] if stream.view else batch
        seen = Batch(prompt=prompts.prompt, prompt_valid=prompts.prompt_valid, tokens=new.tokens, valid=new.valid)
        seen = _with_experts(seen, new)
        output = stream.role if stream.head == "lm" else f"{stream.role}:{stream.head}"
        exact[stream.name] = context.score(output, seen)[output]
        gap = jnp.abs(exact[stream.name] - new.logps[stream.name])
        gaps[f"sampler_gap/{stream.name}"] = Mean.of(gap, new.valid)
    return new._replace(logps=new.logps | exact), gaps


def _appended(batch: Batch, new: Sampled) -> Batch:
    """Puts samples behind the completions of the batch, all padded to the longest."""
    mask = new.valid.astype(jnp.float32)
    if batch.tokens is None:
        late = batch.replace(tokens=new.tokens, valid=new.valid, mask=mask, logps=new.logps)
        return _with_experts(late, new)
    valid = batch.need("valid", of="generate")
    length = max(batch.tokens.shape[2], new.tokens.shape[2])

    def joined(old: Array, late: Array) -> Array:
        parts = [jnp.pad(part, [(0, 0), (0, 0), (0, length - part.shape[2])]) for part in (old, late)]
        return jnp.concatenate([parts[0], parts[1].astype(parts[0].dtype)], axis=1)

    old_mask = batch.mask if batch.mask is not None else valid.astype(jnp.float32)
    late = Batch(
        prompt=batch.prompt,
        prompt_valid=batch.prompt_valid,
        tokens=joined(batch.tokens, new.tokens),
        valid=joined(valid, new.valid),
        mask=joined(old_mask, mask),
        logps={name: joined(logps, new.logps[name]) for name, logps in batch.logps.items() if name in new.logps},
        example_id=batch.example_id,
        prompts=batch.prompts,
        views=batch.views,
    )
    return _with_experts(late, new, batch)


def _with_experts(late: Batch, new: Sampled, old: Batch | None = None) -> Batch:
    """Files the experts that the sampler kept, behind those of the completions that `old` had: -1 where none are
    known."""
    begin = f"{EXPERTS}:"
    after = {begin + role: experts for role, (_, experts) in (new.experts or {}).items()}
    prompts = {begin + role: experts for role, (experts, _) in (new.experts or {}).items()}
    if old is not None:
        before = {name: experts for name, experts in old.completions.items() if name.startswith(begin)}
        length = late.need("tokens", of="generate").shape[2]

        def sized(experts: Array | None, tokens: Array | None, like: Array) -> Array:
            assert tokens is not None
            experts = jnp.full((*tokens.shape, *like.shape[3:]), -1, like.dtype) if experts is None else experts
            room = [(0, 0), (0, 0), (0, length - experts.shape[2]), (0, 0), (0, 0)]
            return jnp.pad(experts, room, constant_values=-1)

        after = {
            name: jnp.concatenate(
                [sized(before.get(name), old.tokens, like), sized(after.get(name), new.tokens, like)], axis=1
            )
            for name, like in {**before, **after}.items()
        }
    return late.replace(prompts={**late.prompts, **prompts}, completions={**late.completions, **after})


def logprobs(context: Context, batch: Batch, key: Key, *, role: str = "reference") -> Batch:
    """Fills logps[role] [B,N,T]: the role's log-probs of the completions in nats, temperature 1, untruncated.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T].
        key: Not used.
        role: Who scores.

    Returns:
        The batch.
    """
    (logps,) = context.score(role, batch).values()
    return batch.with_logps(**{role: logps})


def values(context: Context, batch: Batch, key: Key, *, output: str = "critic:value") -> Batch:
    """Fills completions["values"] [B,N,T]: a value head's number before each token.

    Args:
        context: Scores the head.
        batch: Completions [B,N,T].
        key: Not used.
        output: "role:head".

    Returns:
        The batch.
    """
    (numbers,) = context.score(output, batch).values()
    return batch.replace(completions={**batch.completions, "values": numbers})


def reward(context: Context, batch: Batch, key: Key, *, role: str = "reward") -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: the role's reward head after the last token of each completion, all of which it knows
    (a completions["weight"] of other rewards is dropped). Metric: `reward`.

    Args:
        context: Scores the head.
        batch: Completions [B,N,T].
        key: Not used.
        role: A role with a reward head.

    Returns:
        The batch, and the metric.
    """
    (numbers,) = context.score(f"{role}:reward", batch).values()
    return _rewarded(batch, last_valid(numbers, batch.need("valid", of="reward")))


def in_context_reward(
    context: Context, batch: Batch, key: Key, *, view: str, role: str = "policy", against: str = ""
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: log pi(y | view) - log pi(y | against), DPO's implicit reward with the policy that sees
    demonstrations against the one that does not (ICDPO, arXiv:2402.09320).

    `ranked(keep=1)` then takes the best of candidates that were sampled under the demonstrations (a `Stream` on that
    view). With bad demonstrations in `against` it is a contrast of the two; the paper's form of that was not seen.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] and the views.
        key: Not used.
        view: The view whose prompts hold the demonstrations, B rows.
        role: Who is asked twice.
        against: The view without them; "": the batch's own prompts.

    Returns:
        The batch, and the metric `reward`, in nats.

    Raises:
        ConfigError: For a view that does not exist.
    """
    mask = batch.need("mask", of="in_context_reward")

    def summed(name: str) -> Array:
        check_known(name, ["", *batch.views], f"in_context_reward reads view {name!r}")
        seen = batch.views[name] if name else batch
        scored = batch.replace(prompt=seen.prompt, prompt_valid=seen.prompt_valid)
        return masked_sum(context.score(role, scored)[role], mask)

    return _rewarded(batch, summed(view) - summed(against))


def implicit_reward(
    context: Context, batch: Batch, key: Key, *, role: str = "policy", reference: str = "reference"
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: log role(y) - log reference(y), the implicit reward of a policy that was tuned
    (arXiv:2305.18290 section 4), which knows of half a completion as much as of a whole one. Of small models it guides
    a large one (weak-to-strong search, arXiv:2405.19262, in `block_search`).

    Args:
        context: Scores both roles.
        batch: Completions [B,N,T].
        key: Not used.
        role: Who was tuned.
        reference: Who it was before.

    Returns:
        The batch, and the metric `reward`, in nats.
    """
    mask = batch.need("mask", of="implicit_reward")
    scores = context.score((role, reference), batch)
    return _rewarded(batch, masked_sum(scores[role] - scores[reference], mask))


def _rewarded(batch: Batch, score: Array) -> tuple[Batch, Metrics]:
    """The batch with a reward [B,N] that knows all completions: a weight of other rewards is dropped."""
    completions = {name: leaf for name, leaf in batch.completions.items() if name != "weight"}
    return batch.replace(reward=score, completions=completions), {"reward": Mean.of(score)}


def density_ratio(
    context: Context, batch: Batch, key: Key, *, output: str = "classifier:value", prior: Within = 0.5
) -> tuple[Batch, Metrics]:
    """Fills prompts["density_ratio"] [B]: p(prompt | good) / p(prompt | bad) by the classifier that the loss
    `prompt_classifier` trains; `bco` weights bad completions with it (arXiv:2404.04656).

    Args:
        context: Scores the classifier.
        batch: Prompts with completions; the number is the same for all completions of a prompt.
        key: Not used.
        output: The role and the head that reads the prompt.
        prior: The share of good completions in what the classifier was trained on, which is divided out. TRL leaves
            that factor out, as prior=0.5 does.

    Returns:
        The batch, and the metric `density_ratio`.
    """
    valid = batch.need("valid", of="density_ratio")
    logit = first_valid(context.score(output, batch)[output], valid)
    present = jnp.any(valid, axis=-1)  # completions without tokens do not have the number
    logit = jnp.sum(logit * present, axis=1) / jnp.maximum(jnp.sum(present, axis=1), 1)
    ratio = jnp.exp(jnp.clip(logit, -30, 30)) * (1 - prior) / prior  # far beyond any sensible clip, and finite
    return batch.replace(prompts={**batch.prompts, "density_ratio": ratio}), {"density_ratio": Mean.of(ratio)}
