"""The decorator that turns the maths of one pair into a loss over a batch."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import masked_sum
from alignjax.types import Array, Batch, Context, Mean, Metrics

# What the maths of a pair may ask for by parameter name; each is [B,K] for K pairs (i, j).
FIELDS = {
    "margin": "log-ratio of i minus log-ratio of j, in nats",
    "preference": "probability in [0, 1] that i beats j",
    "ratio_i": "log-ratio of completion i: log policy - log reference, summed over its tokens",
    "ratio_j": "the same of j",
    "logps_i": "log-probability of completion i under the policy, summed",
    "logps_j": "the same of j",
    "length_i": "how many tokens of completion i count (the sum of its mask)",
    "length_j": "the same of j",
}


def reference_logps(context: Context, batch: Batch, name: str) -> Array:
    """batch.logps[name] if a source, a sampler or the stage `logprobs` filled it, else scored now (a second trunk in
    this update)."""
    if name in batch.logps:
        return batch.logps[name]
    (logps,) = context.score(name, batch).values()
    return logps


def pair_indices(batch: Batch, pairs: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """First and second completion of every pair; ConfigError if a pair names a completion that the batch does not
    have."""
    assert batch.tokens is not None
    n = batch.tokens.shape[1]
    if any(not (0 <= i < n and 0 <= j < n and i != j) for i, j in pairs):
        raise ConfigError(f"pairs={tuple(pairs)} do not fit a batch with {n} completions a prompt")
    return jnp.array([i for i, _ in pairs]), jnp.array([j for _, j in pairs])


def pair_labels(batch: Batch, i: Array, j: Array) -> tuple[Array, Array]:
    """preference and pair_weight of the pairs, [B,K]; every pair counts 1 where no weights are given."""
    if batch.preference is None:
        raise ConfigError(
            "a pairwise loss needs batch.preference: a source with pairs, or the stage fn(prefer, judge=...)"
        )
    label = batch.preference[:, i, j]
    if batch.pair_weight is None:
        return label, jnp.ones_like(label)
    weight = batch.pair_weight[:, i, j]
    # Where nobody was asked the label may be anything, NaN included, which times a weight of 0 is a NaN gradient.
    return jnp.where(weight != 0, label, 0.5), weight


def sequence_logps(batch: Batch, logps: Array, normalize: str) -> Array:
    """[B,N,T] -> [B,N]: summed over the tokens that count, or their mean for normalize="length"."""
    mask = batch.mask if batch.mask is not None else batch.valid
    assert mask is not None
    total = masked_sum(logps, mask.astype(logps.dtype))
    if normalize == "length":
        return total / jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(logps.dtype)
    if normalize != "none":
        raise ConfigError(f"normalize={normalize!r}; it must be 'none' (sums, as the papers have it) or 'length'")
    return total


def _fields(
    context: Context, batch: Batch, role: str, reference: str | None, i: Array, j: Array, normalize: str
) -> dict[str, Array]:
    (logps,) = context.score(role, batch).values()
    own = sequence_logps(batch, logps, normalize)
    ratio = (
        own if reference is None else own - sequence_logps(batch, reference_logps(context, batch, reference), normalize)
    )
    mask = batch.mask if batch.mask is not None else batch.valid
    assert mask is not None
    length = jnp.sum(mask, axis=-1).astype(own.dtype)
    fields = {}
    for name, value in (("ratio", ratio), ("logps", own), ("length", length)):
        fields |= {f"{name}_i": value[:, i], f"{name}_j": value[:, j]}
    return fields | {"margin": fields["ratio_i"] - fields["ratio_j"]}


def _metrics(fields: dict[str, Array], label: Array, weight: Array) -> Metrics:
    """What everybody looks at: the margin of the preferred over the other, how often its sign is right, and where the
    log-probs drift."""
    sign = jnp.sign(2 * label - 1)
    winner = sign >= 0
    chosen, rejected = (jnp.where(winner == first, fields["logps_i"], fields["logps_j"]) for first in (True, False))
    decided = weight * (sign != 0)
    right = (fields["margin"] * sign > 0) + 0.5 * (fields["margin"] == 0)
    return {
        "margin": Mean.of(fields["margin"] * sign, decided),
        "accuracy": Mean.of(right, decided),
        "chosen_logps": Mean.of(chosen, decided),
        "rejected_logps": Mean.of(rejected, decided),
        "log_ratio": Mean.of((fields["ratio_i"] + fields["ratio_j"]) / 2, weight),
    }


def pairwise(per_pair: Callable[..., Array]) -> Any:
    """Makes a Loss of a function of one pair.

    The positional parameters of `per_pair` name what it reads (see FIELDS, usually margin and preference; all [..,K])
    and it returns a loss per pair [..,K]; its keyword-only parameters are the hyper-parameters. The loss gains five
    more:

    role: what is trained; reference: what log-ratios are against (None: reference-free); pairs: which completions are
    compared; normalize: "none" for sequence sums, "length" for per-token means; per_pair stays reachable as
    `loss.per_pair`.

    The decorator owns masks, pairs, `pair_weight` (0 = not labelled) and the (sum, weight) of the mean. The label is a
    probability, so soft labels and label smoothing need no loss of their own.

    Raises ConfigError if the batch has no preference, or not the completions that `pairs` names.
    """
    parameters = inspect.signature(per_pair).parameters
    asked = [name for name, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    unknown = [name for name in asked if name not in FIELDS]
    if unknown:
        raise ConfigError(f"{per_pair.__name__} asks for {', '.join(unknown)}; a pair has {', '.join(FIELDS)}")

    def loss(
        context: Context,
        batch: Batch,
        *,
        role: str = "policy",
        reference: str | None = "reference",
        pairs: tuple[tuple[int, int], ...] = ((0, 1),),
        normalize: str = "none",
        **hyper: Any,
    ) -> tuple[Mean, Metrics]:
        i, j = pair_indices(batch, pairs)
        label, weight = pair_labels(batch, i, j)
        fields = _fields(context, batch, role, reference, i, j, normalize)
        label = label.astype(fields["margin"].dtype)
        values = per_pair(*[{**fields, "preference": label}[name] for name in asked], **hyper)
        return Mean.of(values, weight), _metrics(fields, label, weight)

    return _as_loss(loss, per_pair)


def _as_loss(loss: Any, per_pair: Callable[..., Array]) -> Any:
    """`loss` under the name, docstring and hyper-parameters of `per_pair`, followed by its own."""
    own = typing.get_type_hints(loss)
    hints = typing.get_type_hints(per_pair)
    hyper = [p for p in inspect.signature(per_pair).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    mine = [p for p in inspect.signature(loss).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    first, rest = mine[:2], [p for p in mine[2:] if p.name not in {h.name for h in hyper}]
    loss.__name__, loss.__qualname__ = per_pair.__name__, per_pair.__qualname__
    loss.__doc__, loss.__module__ = per_pair.__doc__, per_pair.__module__
    loss.__annotations__ = {**own, **{p.name: hints.get(p.name, Any) for p in hyper}}
    loss.__signature__ = inspect.Signature([*first, *hyper, *rest])
    loss.per_pair = per_pair
    return loss
