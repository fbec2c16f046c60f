"""Losses that fit given targets: language modeling, preference models and reward models."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from alignjax.losses.decorators.declared import needs
from alignjax.losses.decorators.pairwise import Pairs, pair_indices, pair_labels
from alignjax.losses.decorators.sequences import mask_of, scored
from alignjax.numerics import last_valid
from alignjax.pair_layout import pair_logits
from alignjax.ranges import Natural, NonNegative
from alignjax.types import Array, Batch, Context, Mean, Metrics


def sft(context: Context, batch: Batch, *, role: str = "policy") -> tuple[Mean, Metrics]:
    """Supervised fine-tuning: mean of -log pi(y_t) over the tokens that count.

    One mean over all tokens of the batch, not a mean of per-sequence means.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T].
        role: What is trained.

    Returns:
        The mean over tokens in nats, and `nats_per_token`: the same number, unweighted by real-valued masks.
    """
    logps, mask = scored(context, batch, role), mask_of(batch)
    return Mean.of(-logps, mask), {"nats_per_token": Mean.of(-logps, mask != 0)}


def cross_entropy(logit: Array, label: Array, weight: Array) -> tuple[Mean, Metrics]:
    """Logistic regression: -p log S(x) - (1-p) log S(-x), x the logit of a label p.

    Args:
        logit: Any shape, nats.
        label: Probabilities of that shape.
        weight: How much each counts.

    Returns:
        The mean in nats; `accuracy` where the label has a side, and `margin`, the mean of |x|.
    """
    loss = -(label * jax.nn.log_sigmoid(logit) + (1 - label) * jax.nn.log_sigmoid(-logit))
    right = jnp.where(logit == 0, 0.5, (logit > 0) == (label > 0.5))
    decided = weight * (label != 0.5)
    return Mean.of(loss, weight), {"accuracy": Mean.of(right, decided), "margin": Mean.of(jnp.abs(logit), weight)}


@needs("preference")
def preference_cross_entropy(
    context: Context,
    batch: Batch,
    *,
    role: str = "preference",
    pairs: Pairs = ((0, 1),),
    reading: str = "joint",
    separator: Natural | None = None,
) -> tuple[Mean, Metrics]:
    """Cross-entropy of a pairwise preference model: -p log P - (1-p) log(1-P), P = S(f(i, j) - f(j, i)) the probability
    that i beats j (arXiv:2312.00886 section 4).

    f reads both completions ("y separator y'"), so the model may be intransitive; it is antisymmetric by construction.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] with a preference [B,N,N]; labels are probabilities.
        role: The preference model.
        pairs: Which completions are compared.
        reading: "joint", "apart" or "averaged", see `pair_layout.pair_logits`.
        separator: The token between two completions; None: that of the source's tokenizer.

    Returns:
        The mean over pairs in nats, weighted by `pair_weight`; `accuracy` and `margin` (nats).

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names.
    """
    # The logit is a difference of both readings of a pair, which makes P(i beats j) = 1 - P(j beats i) exact, so each
    # pair is scored once and the label may be soft.
    label, weight = pair_labels(batch, *pair_indices(batch, pairs))
    logit = pair_logits(context, batch, role=role, pairs=pairs, reading=reading, separator=separator)
    return cross_entropy(logit, label, weight)


@needs("preference")
def bradley_terry(
    context: Context,
    batch: Batch,
    *,
    role: str = "reward",
    pairs: Pairs = ((0, 1),),
    center_rewards_coefficient: NonNegative | None = None,
    margin: Literal["data", "reward"] = "data",
    scaled: bool = False,
) -> tuple[Mean, Metrics]:
    """Cross-entropy of a Bradley-Terry reward model: -p log S(r_i - r_j - m) - (1-p) log S(r_j - r_i - m) + c (r_i +
    r_j)^2 (InstructGPT, arXiv:2203.02155 eq. 1; the margin m: Llama 2, arXiv:2307.09288 eq. 2; the pull to 0 by c:
    arXiv:2312.09244).

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] with a preference [B,N,N]; labels are probabilities.
        role: The reward model; r is its "reward" head after the last token of a completion.
        pairs: Which completions are compared.
        center_rewards_coefficient: c; None for 0.
        margin: Says where m is from: "data" takes prompts["margin"] [B], the number of a row that the source read (see
            `numbers` of a source), 0 where there is none; "reward" the distance of the two grades in batch.reward.
        scaled: Multiplies the cross-entropy by m instead of moving its argument (HelpSteer2-Preference,
            arXiv:2410.01257); it needs margins.

    Returns:
        The mean over pairs in nats, weighted by `pair_weight`; `accuracy`, `margin` (nats) and the mean `reward`.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names; or `scaled`, and no
            margins.
    """
    # A margin belongs to the pair, not to a side: whichever order the label speaks for has to be ahead by it.
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    reward = last_valid(scored(context, batch, f"{role}:reward"), batch.need("valid", of="bradley_terry"))
    first, second = (jnp.where(weight != 0, reward[:, side], 0) for side in (i, j))
    loss, metrics = cross_entropy(first - second, label, weight)
    ahead = _margins(batch, i, j, margin, weight, scaled)
    if ahead is not None:
        logit = first - second
        forth, back = (-jax.nn.log_sigmoid(sign * logit - (0 if scaled else ahead)) for sign in (1, -1))
        loss = Mean.of((label * forth + (1 - label) * back) * (ahead if scaled else 1), weight)
    if center_rewards_coefficient is not None:
        off = Mean.of(center_rewards_coefficient * jnp.square(first + second), weight)
        loss = Mean(loss.total + off.total, loss.weight)
    return loss, metrics | {"reward": Mean.of(reward)}


def _margins(batch: Batch, i: Array, j: Array, margin: str, weight: Array, needed: bool) -> Array | None:
    """Margins of pairs [B,K] or [B,1], 0 where a pair does not count; None if there are none and none are needed."""
    if margin == "reward":
        grade = batch.need("reward", of='bradley_terry(margin="reward")')
        return jnp.where(weight != 0, jnp.abs(grade[:, i] - grade[:, j]), 0)
    if not needed and "margin" not in batch.prompts:
        return None
    ahead = batch.need("prompts", "margin", of="bradley_terry")[:, None]
    return jnp.where((weight != 0) & ~jnp.isnan(ahead), ahead, 0)


@needs("completions")
def score_regression(
    context: Context, batch: Batch, *, output: str = "reward:reward", field: str = "quality"
) -> tuple[Mean, Metrics]:
    """Regression of a score: mean (f - s)^2, s a given number per completion (the metric that a reward model learns
    beside the ranking in arXiv:2506.05070).

    Args:
        context: Scores the head.
        batch: Completions [B,N,T]; completions without a token do not count.
        output: The head f, read after the last token.
        field: batch.completions[field] [B,N] holds s.

    Returns:
        The mean over completions in squared units of s, and no metrics.

    Raises:
        ConfigError: If there is no such field.
    """
    target, valid = batch.need("completions", field, of="score_regression"), batch.need("valid", of="score_regression")
    error = last_valid(scored(context, batch, output), valid) - target
    return Mean.of(jnp.square(error), jnp.any(valid, axis=-1)), {}
