"""The decorator that turns the maths of one pair into a loss over a batch."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
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
# The same for maths that is written for a winner w and a loser l, as papers do.
_ORDERED = {name[:-1] + {"i": "w", "j": "l"}[name[-1]]: name for name in FIELDS if name[-2:] in ("_i", "_j")}
_SWAPPED = {name: name[:-1] + {"i": "j", "j": "i"}[name[-1]] for name in _ORDERED.values()}


def reference_logps(context: Context, batch: Batch, name: str) -> Array:
    """batch.logps[name] if a source, a sampler or the stage `logprobs` filled it, else scored now (a second trunk in
    this update). A constant, also where the role is trained by another loss."""
    if name in batch.logps:
        return batch.logps[name]
    (logps,) = context.score(name, batch).values()
    return jax.lax.stop_gradient(logps)


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


def mask_of(batch: Batch) -> Array:
    """How much every completion token counts, [B,N,T]."""
    mask = batch.mask if batch.mask is not None else batch.valid
    assert mask is not None
    return mask


def sequence_logps(logps: Array, mask: Array, normalize: str = "none") -> Array:
    """[..,T] -> [..]: summed over the tokens that count, or their mean for normalize="length"."""
    total = masked_sum(logps, mask.astype(logps.dtype))
    if normalize == "length":
        return total / jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(logps.dtype)
    if normalize != "none":
        raise ConfigError(f"normalize={normalize!r}; it must be 'none' (sums) or 'length' (means per token)")
    return total


def pair_fields(
    context: Context,
    batch: Batch,
    i: Array,
    j: Array,
    *,
    role: str,
    reference: str | None,
    normalize: str = "none",
    masks: tuple[Array, Array] | None = None,
) -> dict[str, Array]:
    """All FIELDS of the pairs but the label, [B,K] each. i, j [K]: first and second completion of every pair.

    masks: how much the tokens of the two sides count, [B,K,T] each, where that depends on the pair; batch.mask
    otherwise.
    """
    (logps,) = context.score(role, batch).values()
    against = None if reference is None else reference_logps(context, batch, reference)
    mask = mask_of(batch)

    def side(index: Array, weight: Array | None) -> tuple[Array, Array, Array]:
        """(log-prob, log-ratio, length) of one side."""

        def total(values: Array) -> Array:
            if weight is None:  # summed before it is gathered: N sequences, not K
                return sequence_logps(values, mask, normalize)[:, index]
            return sequence_logps(values[:, index], weight, normalize)

        own = total(logps)
        length = jnp.sum(mask, axis=-1)[:, index] if weight is None else jnp.sum(weight, axis=-1)
        return own, own if against is None else own - total(against), length.astype(own.dtype)

    first, second = masks if masks is not None else (None, None)
    names = ("logps", "ratio", "length")
    fields = {f"{name}_i": value for name, value in zip(names, side(i, first), strict=True)}
    fields |= {f"{name}_j": value for name, value in zip(names, side(j, second), strict=True)}
    return fields | {"margin": fields["ratio_i"] - fields["ratio_j"]}


def pair_values(per_pair: Callable[..., Array], fields: dict[str, Array], label: Array, **hyper: Any) -> Array:
    """The loss of every pair [B,K].

    Maths that asks for winner and loser (`ratio_w`, `logps_l`, ... or the margin alone) is applied in both orders and
    averaged with the label; maths that asks for `preference` or for i and j is applied once.
    """
    asked = _asked(per_pair)
    if not _is_ordered(asked):
        return per_pair(*[{**fields, "preference": label}[name] for name in asked], **hyper)
    names = [_ORDERED.get(name, name) for name in asked]
    swapped = {**{name: fields[other] for name, other in _SWAPPED.items()}, "margin": -fields["margin"]}
    forth, back = (per_pair(*[given[name] for name in names], **hyper) for given in (fields, swapped))
    return label * forth + (1 - label) * back


def _asked(per_pair: Callable[..., Array]) -> list[str]:
    parameters = inspect.signature(per_pair).parameters
    return [name for name, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]


def _is_ordered(asked: Sequence[str]) -> bool:
    """Whether the maths is written for a winner and a loser."""
    return all(name in _ORDERED or name == "margin" for name in asked)


def pair_metrics(fields: dict[str, Array], label: Array, weight: Array) -> Metrics:
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


def pairwise(per_pair: Callable[..., Array] | None = None, **defaults: Any) -> Any:
    """Makes a Loss of a function of one pair: `@pairwise`, or `@pairwise(reference=None, normalize="length")`.

    The positional parameters of `per_pair` name what it reads (see FIELDS; all [..,K]) and it returns a loss per pair
    [..,K]; its keyword-only parameters are the hyper-parameters. Written for a winner and a loser (`ratio_w`,
    `logps_l`, ..., or `margin` alone, the winner's minus the loser's) it becomes p l(i, j) + (1-p) l(j, i); written
    with `preference` it does with the label what it likes. The loss gains five hyper-parameters, whose defaults
    `defaults` may change:

    role: what is trained; reference: what log-ratios are against (None: reference-free); pairs: which completions are
    compared; normalize: "none" for sequence sums, "length" for per-token means; per_pair stays reachable as
    `loss.per_pair`.

    The decorator owns masks, pairs, `pair_weight` (0 = not labelled) and the (sum, weight) of the mean. The label is a
    probability, so soft labels and label smoothing need no loss of their own.

    Raises ConfigError if the batch has no preference, or not the completions that `pairs` names.
    """
    if per_pair is None:
        return functools.partial(pairwise, **defaults)
    maths = per_pair
    asked = _asked(maths)
    unknown = [name for name in asked if name not in FIELDS and name not in _ORDERED]
    if unknown or (any(name in _ORDERED for name in asked) and not _is_ordered(asked)):
        raise ConfigError(
            f"{maths.__name__} asks for {', '.join(unknown or asked)}; a pair has {', '.join(FIELDS)}, or for a winner "
            f"and a loser margin, {', '.join(_ORDERED)}"
        )

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
        fields = pair_fields(context, batch, i, j, role=role, reference=reference, normalize=normalize)
        label = label.astype(fields["margin"].dtype)
        return Mean.of(pair_values(maths, fields, label, **hyper), weight), pair_metrics(fields, label, weight)

    loss.__kwdefaults__ = {**(loss.__kwdefaults__ or {}), **defaults}
    named = as_loss(loss, maths)
    named.per_pair = maths
    return named


def as_loss(loss: Any, maths: Callable[..., Array]) -> Any:
    """`loss` under the name, docstring and hyper-parameters of `maths`, followed by its own."""
    own = typing.get_type_hints(loss)
    hints = typing.get_type_hints(maths)
    hyper = [p for p in inspect.signature(maths).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    mine = [p for p in inspect.signature(loss).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    first, rest = mine[:2], [p for p in mine[2:] if p.name not in {h.name for h in hyper}]
    loss.__name__, loss.__qualname__ = maths.__name__, maths.__qualname__
    loss.__doc__, loss.__module__ = maths.__doc__, maths.__module__
    loss.__annotations__ = {**own, **{p.name: hints.get(p.name, Any) for p in hyper}}
    loss.__signature__ = inspect.Signature([*first, *hyper, *rest])
    return loss
