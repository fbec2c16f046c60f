"""The decorator that turns the math of one pair into a loss over a batch, and the pieces that other losses of pairs
share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, as_fn
from alignjax.losses.decorators.declared import as_loss, check_inputs, math_inputs
from alignjax.losses.decorators.sequences import mask_of, neutral, reference_logps, scored, sequence_logps
from alignjax.pair_layout import check_pairs
from alignjax.ranges import Natural
from alignjax.types import Array, Batch, Context, Mean, Metrics

Pairs = tuple[tuple[Natural, Natural], ...]

# What the math of a pair may ask for by parameter name; each is [B,K] for K pairs (i, j).
FIELDS = {
    "margin": "log-ratio of i minus log-ratio of j, in nats",
    "preference": "probability in [0, 1] that i beats j",
    "ratio_i": "log-ratio of completion i: log policy - log reference, summed over its tokens",
    "ratio_j": "log-ratio of completion j",
    "logps_i": "log-probability of completion i under the policy, summed",
    "logps_j": "log-probability of completion j",
    "length_i": "how many tokens of completion i count (the sum of its mask)",
    "length_j": "how many tokens of completion j count",
}
# The names in math that is written for a winner w and a loser l, as papers do.
_ORDERED = {name[:-1] + {"i": "w", "j": "l"}[name[-1]]: name for name in FIELDS if name[-2:] in ("_i", "_j")}
_SWAPPED = {name: name[:-1] + {"i": "j", "j": "i"}[name[-1]] for name in _ORDERED.values()}


def pair_indices(batch: Batch, pairs: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """Returns the first and the second completion of every pair, [K] each.

    Args:
        batch: Completions [B,N,T].
        pairs: K pairs of completion numbers.

    Returns:
        (first, second), [K] each.

    Raises:
        ConfigError: If a pair names a completion that the batch does not have.
    """
    check_pairs(pairs, batch.need("tokens", of="a loss of pairs").shape[1])
    return jnp.array([i for i, _ in pairs]), jnp.array([j for _, j in pairs])


def pair_labels(batch: Batch, i: Array, j: Array) -> tuple[Array, Array]:
    """Returns the preference and the weight of the pairs, [B,K] each; without weights every pair counts 1.

    Args:
        batch: A preference [B,N,N] and, if there are weights, pair_weight [B,N,N].
        i: First completions [K].
        j: Second completions [K].

    Returns:
        (preference, weight), [B,K] each.

    Raises:
        ConfigError: If the batch has no preference.
    """
    label = batch.need("preference", of="a pairwise loss")[:, i, j]
    if batch.pair_weight is None:
        return label, jnp.ones_like(label)
    weight = batch.pair_weight[:, i, j]
    # Where nobody was asked the label may be anything, NaN included, which times a weight of 0 is a NaN gradient.
    return jnp.where(weight != 0, label, 0.5), weight


class ScoredPairs(NamedTuple):
    """Pairs with all that is known of them; K pairs of each prompt."""

    i: Array  # [K] number of the first completion
    j: Array  # [K] number of the second
    label: Array  # [B,K] probability that i beats j
    weight: Array  # [B,K] 0 where nobody was asked
    fields: Mapping[str, Array]  # see FIELDS, [B,K] each

    def mix(self, forth: Array, back: Array) -> Array:
        """Returns p forth + (1-p) back: the loss of each pair from its loss under either verdict."""
        return self.label * forth + (1 - self.label) * back

    def mean(self, values: Array) -> Mean:
        """Returns one mean over all pairs, each by its weight."""
        return Mean.of(values, self.weight)

    def metrics(self, **more: Mean) -> Metrics:
        """Returns `pair_metrics`, and more."""
        return pair_metrics(self.fields, self.label, self.weight) | more


def score_pairs(
    context: Context,
    batch: Batch,
    *,
    role: str,
    reference: str | None,
    pairs: Pairs,
    normalize: str = "none",
    masks: tuple[Array, Array] | None = None,
) -> ScoredPairs:
    """Labels and scores the pairs of a batch.

    Args:
        context: Scores the role, and the reference unless the batch has its log-probs.
        batch: Completions [B,N,T] with a preference [B,N,N].
        role: What is scored.
        reference: What log-ratios are against; None: log-ratios are log-probs.
        pairs: Which completions are compared.
        normalize: "none" for sums over tokens, "length" for means.
        masks: How much the tokens of the two sides count, [B,K,T] each, where that depends on the pair; batch.mask
            otherwise.

    Returns:
        The pairs, their labels and weights [B,K], and their fields.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names.
    """
    # Labels come first: a batch without a preference then fails before any model is traced. Numbers are summed over
    # tokens before pairs are gathered, N sequences and not K, unless the mask is the pair's.
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    logps, mask = scored(context, batch, role), mask_of(batch)
    against = None if reference is None else reference_logps(context, batch, reference)

    def summed(values: Array, index: Array, pair_mask: Array | None) -> Array:
        if pair_mask is None:
            return sequence_logps(values, mask, normalize)[:, index]
        return sequence_logps(values[:, index], pair_mask, normalize)

    fields = {}
    for side, index, pair_mask in zip("ij", (i, j), masks or (None, None), strict=True):
        total = summed(logps, index, pair_mask)
        length = jnp.sum(mask, axis=-1)[:, index] if pair_mask is None else jnp.sum(pair_mask, axis=-1)
        fields[f"logps_{side}"] = total
        fields[f"ratio_{side}"] = total if against is None else total - summed(against, index, pair_mask)
        fields[f"length_{side}"] = length.astype(total.dtype)
    margin = fields["ratio_i"] - fields["ratio_j"]
    fields = neutral(fields | {"margin": margin}, weight != 0)
    return ScoredPairs(i, j, label.astype(margin.dtype), weight, fields)


def pair_values(
    per_pair: Callable[..., Array],
    fields: Mapping[str, Array],
    label: Array,
    *,
    mixes_label: bool | None = None,
    **hyper: Any,
) -> Array:
    """Evaluates the math of a pair.

    Args:
        per_pair: The math, as `pairwise` takes it.
        fields: What it may ask for, see `FIELDS`, [B,K] each.
        label: Probability that i beats j [B,K].
        mixes_label: Whether the math is applied in both orders and averaged with the label; None: if it asks for a
            winner and a loser (`ratio_w`, `logps_l`, ...) or for the margin alone.
        **hyper: Hyper-parameters of the math.

    Returns:
        The loss of every pair [B,K].
    """
    inputs = math_inputs(per_pair)
    if not (_is_ordered(inputs) if mixes_label is None else mixes_label):
        return per_pair(*[{**fields, "preference": label}[name] for name in inputs], **hyper)
    names = [_ORDERED.get(name, name) for name in inputs]
    swapped = {**{name: fields[other] for name, other in _SWAPPED.items()}, "margin": -fields["margin"]}
    # A hard label has one order that counts. It stands in the place of the other, whose loss may be infinite: 0 times
    # that, or times its derivative, would be NaN.
    orders = ((label > 0, fields, swapped), (label < 1, swapped, fields))
    forth, back = (per_pair(*[jnp.where(on, a[name], b[name]) for name in names], **hyper) for on, a, b in orders)
    return label * forth + (1 - label) * back


def _is_ordered(inputs: Sequence[str]) -> bool:
    """Tells whether math with these inputs is written for a winner and a loser."""
    return all(name in _ORDERED or name == "margin" for name in inputs)


def pair_metrics(fields: Mapping[str, Array], label: Array, weight: Array) -> Metrics:
    """Returns what everybody looks at: `margin` (nats) and `accuracy` of the preferred over the other completion where
    the label has a side, and where log-probs drift (`chosen_logps`, `rejected_logps`, `log_ratio`).

    Args:
        fields: Of the pairs, [B,K] each.
        label: The preference [B,K].
        weight: [B,K], 0 for a pair that does not count.

    Returns:
        The five metrics, in nats but for `accuracy`.
    """
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


def pairwise(per_pair: Callable[..., Array] | None = None, *, mixes_label: bool | None = None, **defaults: Any) -> Any:
    """Makes a Loss of a function of one pair: `@pairwise`, or `@pairwise(reference=None, normalize="length")`.

    Math that is written for a winner and a loser (`ratio_w`, `logps_l`, ..., or `margin` alone, the winner's minus the
    loser's) becomes p l(i, j) + (1-p) l(j, i); math that asks for `preference` does with the label what it likes. So
    soft labels and label smoothing need no loss of their own. The decorator owns masks, pairs, `pair_weight` (0 = not
    labeled) and the (sum, weight) of the mean. An order of a pair that its label rules out is not evaluated, so a loss
    that is unbounded on one side, exp(-margin), stays finite; math that reads `preference` sees to that itself.

    The loss gains four hyper-parameters: role, what is trained; reference, what log-ratios are against (None:
    reference-free); pairs, which completions are compared; normalize, "none" for sums over tokens or "length" for
    means. It raises a ConfigError if the batch has no preference, or not the completions that `pairs` names.

    Args:
        per_pair: The math. Its positional parameters name what it reads (see `FIELDS`; all [..,K]), its keyword-only
            parameters are the hyper-parameters, and it returns a loss per pair [..,K].
        mixes_label: Says what the parameter names would decide: whether the math is applied in both orders and mixed
            with the label (True), or once (False).
        **defaults: Other defaults of the four hyper-parameters.

    Returns:
        The loss; the math stays reachable as `loss.per_pair`.

    Raises:
        ConfigError: If the math asks for what a pair does not have, or for a winner and a loser without mixing.
    """
    # The wrapper reads the names of the math's parameters once, here, so that a misspelled field, or a contradiction in
    # `mixes_label`, fails when the loss is defined and not inside a traced step.
    if per_pair is None:
        return functools.partial(pairwise, mixes_label=mixes_label, **defaults)
    math = per_pair
    has = f"a pair has {', '.join(FIELDS)}, or for a winner and a loser margin, {', '.join(_ORDERED)}"
    inputs = check_inputs(math, {*FIELDS, *_ORDERED}, has)
    ordered = any(name in _ORDERED for name in inputs)
    if (ordered or mixes_label) and not (_is_ordered(inputs) and mixes_label is not False):
        raise ConfigError(f"{math.__name__} asks for {', '.join(inputs)} with mixes_label={mixes_label}; {has}")

    def evaluate(context: Context, batch: Batch, where: Any, hyper: Any) -> tuple[Mean, Metrics]:
        pair = score_pairs(context, batch, **where)
        return pair.mean(pair_values(math, pair.fields, pair.label, mixes_label=mixes_label, **hyper)), pair.metrics()

    attributes = {"per_pair": math, "mixes_label": mixes_label, "needs": ("preference",)}
    return as_loss(math, evaluate, ("role", "reference", "pairs", "normalize"), defaults, **attributes)


class WrappedPairs(NamedTuple):
    """A pairwise loss taken apart, for a loss that wraps it."""

    where: dict[str, Any]  # its role, reference and pairs
    normalize: str
    values: Callable[..., Array]  # (fields, label [B,K]) -> loss per pair [B,K]


def wrapped_pairs(loss: Any, wrapper: str) -> WrappedPairs:
    """Takes a pairwise loss apart.

    Args:
        loss: A loss made by `pairwise`, or an `Fn` of one.
        wrapper: Who wraps it, for the message.

    Returns:
        Its parts.

    Raises:
        ConfigError: If the loss is not made by `pairwise`.
    """
    loss = as_fn(loss)
    math = getattr(loss.function, "per_pair", None) if isinstance(loss, Fn) else None
    if math is None:
        raise ConfigError(
            f"{wrapper} needs a pairwise loss such as fn(dpo, beta=0.1), one that is made by `pairwise`, not {loss!r}"
        )
    hyper = dict(loss.kwargs)
    where = {name: hyper.pop(name) for name in ("role", "reference", "pairs")}
    normalize = hyper.pop("normalize")
    mixes_label = loss.function.mixes_label
    return WrappedPairs(where, normalize, functools.partial(pair_values, math, mixes_label=mixes_label, **hyper))
